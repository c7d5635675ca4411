//! Every type through both codecs, whole and damaged.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arbitrary::{Arbitrary, Source, TypeVisitor, visit_types};
use crate::limits::{Bounded, LimitError};
use crate::xdr::{Decoder, Encoder, Xdr, XdrError};
use crate::{Call, Decoder as _, Encoder as _, Event, Op, Reply, remote};

/// Values made of each type.
const SEEDS: u64 = 6;
/// The cap of our own codec in these tests; `ipc` chooses its own for each edge.
const CAP: usize = 1 << 20;

/// bincode as `ipc` sets it up.
fn bincode_decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<CAP>())
}

fn bincode_encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard().with_limit::<CAP>()).unwrap()
}

fn xdr_encode<T: Serialize + Xdr + Bounded>(value: &T) -> Vec<u8> {
    let mut out = Encoder::new();
    out.put(value).unwrap();
    out.into_vec()
}

/// Runs one test on every type.
struct EachType<'a, F>(&'a F, usize);

/// A test of one type, over values of it.
trait TypeTest {
    fn run<T>(&self, name: &str, value: &T)
    where
        T: Serialize + DeserializeOwned + Xdr + Bounded + PartialEq + Debug;
}

impl<F: TypeTest> TypeVisitor for EachType<'_, F> {
    fn visit<T>(&mut self, name: &'static str)
    where
        T: Arbitrary + Serialize + DeserializeOwned + Xdr + Bounded + Clone + Default + PartialEq + Debug,
    {
        self.1 += 1;
        self.0.run(name, &T::default());
        for seed in 0..SEEDS {
            self.0.run(name, &T::arbitrary(&mut Source::new(seed)));
        }
    }
}

fn on_every_type(test: &impl TypeTest) {
    let mut each = EachType(test, 0);
    visit_types(&mut each);
    // 409 + 7 calls, 58 events, the answers and the records: the number only guards against a walk over nothing.
    assert!(each.1 > 700, "{} types", each.1);
}

struct RoundTrip;

impl TypeTest for RoundTrip {
    fn run<T>(&self, name: &str, value: &T)
    where
        T: Serialize + DeserializeOwned + Xdr + Bounded + PartialEq + Debug,
    {
        assert_eq!(value.check(), Ok(()), "{name}");
        let xdr = xdr_encode(value);
        assert_eq!(xdr.len() % 4, 0, "{name}");
        assert!(xdr.len() >= T::MIN_SIZE, "{name}");
        let mut input = Decoder::new(&xdr);
        assert_eq!(&input.get::<T>().unwrap(), value, "{name}");
        input.finish().unwrap();

        let own = bincode_encode(value);
        let (back, used) = bincode_decode::<T>(&own).unwrap();
        assert_eq!((&back, used), (value, own.len()), "{name}");
    }
}

#[test]
fn every_type_survives_both_codecs() {
    on_every_type(&RoundTrip);
}

struct Truncated;

impl TypeTest for Truncated {
    fn run<T>(&self, name: &str, value: &T)
    where
        T: Serialize + DeserializeOwned + Xdr + Bounded + PartialEq + Debug,
    {
        let xdr = xdr_encode(value);
        for length in 0..xdr.len() {
            let result = T::decode(&mut Decoder::new(&xdr[..length]));
            assert!(matches!(result, Err(XdrError::Truncated { .. })), "{name} at {length}: {result:?}");
        }
        let own = bincode_encode(value);
        for length in 0..own.len() {
            assert!(bincode_decode::<T>(&own[..length]).is_err(), "{name} at {length}");
        }
    }
}

#[test]
fn no_truncated_value_is_read() {
    on_every_type(&Truncated);
}

struct Damaged;

impl TypeTest for Damaged {
    fn run<T>(&self, name: &str, value: &T)
    where
        T: Serialize + DeserializeOwned + Xdr + Bounded + PartialEq + Debug,
    {
        let xdr = xdr_encode(value);
        for at in (0..xdr.len()).step_by(4) {
            for word in [u32::MAX, 1 << 31, 1 << 22, 5] {
                let mut bytes = xdr.clone();
                bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
                // It may be an error or another value, but never one that breaks a limit.
                if let Ok(read) = T::decode(&mut Decoder::new(&bytes)) {
                    assert_eq!(read.check(), Ok(()), "{name} with {word:#x} at {at}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_value_is_an_error_or_within_limits() {
    on_every_type(&Damaged);
}

#[test]
fn a_length_above_the_limit_is_refused_before_the_rest_is_looked_at() {
    let limit = remote::DOMAIN_FSFREEZE_MOUNTPOINTS_MAX;
    let mut input = Decoder::new(&[0, 0, 1, 1]);
    let result = input.list(limit, 4, |input| input.string(remote::STRING_MAX));
    assert!(matches!(result, Err(XdrError::TooLong { length: 257, max: 256 })), "{result:?}");
}

#[test]
fn a_count_that_the_bytes_cannot_hold_is_refused_before_the_first_value() {
    // 200 000 values of 12 bytes are within the limit of a stats record, but 100 bytes are there.
    let mut bytes = 200_000_u32.to_be_bytes().to_vec();
    bytes.resize(104, 0);
    let result = Decoder::new(&bytes).list(
        remote::CONNECT_GET_ALL_DOMAIN_STATS_MAX,
        remote::TypedParam::MIN_SIZE,
        |_| -> Result<(), XdrError> { panic!("a value was read") },
    );
    assert!(matches!(result, Err(XdrError::Truncated { needed: 2_400_000, left: 100 })), "{result:?}");
}

#[test]
fn a_count_that_overflows_is_refused() {
    let result = Decoder::new(&[0; 8]).items(usize::MAX, 16, u32::decode);
    assert!(matches!(result, Err(XdrError::Truncated { left: 8, .. })));
}

#[test]
fn a_value_above_a_limit_is_not_written() {
    let args = remote::DomainFsfreezeArgs { mountpoints: vec!["/".to_owned(); 257], ..Default::default() };
    let mut out = Encoder::over(vec![1, 2, 3, 4]);
    let error = out.put(&args).unwrap_err();
    let expected = LimitError::TooLong { field: "DomainFsfreezeArgs.mountpoints", length: 257, max: 256 };
    assert!(matches!(error, XdrError::Limit(found) if found == expected));
    assert_eq!(out.as_slice(), [1, 2, 3, 4]);
}

#[test]
fn an_array_of_another_length_is_not_written() {
    let info = remote::NodeGetInfoRet { model: vec![0; 31], ..Default::default() };
    let expected = LimitError::WrongLength { field: "NodeGetInfoRet.model", length: 31, expected: 32 };
    assert_eq!(info.check(), Err(expected));
}

#[test]
fn the_limits_hold_inside_of_lists_and_options() {
    let long = "x".repeat(remote::STRING_MAX as usize + 1);
    let addr = remote::DomainIpAddr { addr: long.clone(), ..Default::default() };
    let iface = remote::DomainInterface { addrs: vec![addr], ..Default::default() };
    let field = "DomainIpAddr.addr";
    let (length, max) = (long.len(), long.len() - 1);
    assert_eq!(iface.check(), Err(LimitError::TooLong { field, length, max }));
    let open = remote::ConnectOpenArgs { name: Some(long), flags: 0 };
    assert!(open.check().is_err());
}

#[test]
fn calls_replies_and_events_are_read_by_their_operation() {
    for op in Op::ALL {
        let source = &mut Source::new(op as u64);
        let mut out = Encoder::new();
        match (Call::arbitrary(op, source), Reply::arbitrary(op, source), Event::arbitrary(op, source)) {
            (Some(call), Some(reply), None) => {
                assert_eq!((call.op(), reply.op()), (op, op));
                call.encode(&mut out).unwrap();
                reply.encode(&mut out).unwrap();
                let mut input = Decoder::new(out.as_slice());
                assert_eq!(Call::decode(op, &mut input).unwrap(), Some(call));
                assert_eq!(Reply::decode(op, &mut input).unwrap(), Some(reply));
                assert_eq!(Event::decode(op, &mut input).unwrap(), None);
                input.finish().unwrap();
            }
            (None, None, Some(event)) => {
                assert_eq!(event.op(), op);
                event.encode(&mut out).unwrap();
                let mut input = Decoder::new(out.as_slice());
                assert_eq!(Call::decode(op, &mut input).unwrap(), None);
                assert_eq!(Reply::decode(op, &mut input).unwrap(), None);
                assert_eq!(Event::decode(op, &mut input).unwrap(), Some(event));
                input.finish().unwrap();
            }
            other => panic!("{op} is neither a call nor an event: {other:?}"),
        }
    }
}

#[test]
fn padding_goes_by_the_value_whatever_the_buffer_held() {
    let mut encoder = Encoder::over(vec![9]);
    encoder.opaque(b"abcde");
    assert_eq!(encoder.as_slice(), b"\x09\0\0\0\x05abcde\0\0\0");
}
