//! Bytes written by hand: what libvirt's programs send.

use crate::xdr::{Decoder, Encoder, Xdr, XdrError};
use crate::{Encoder as _, chars, remote};

const UUID: [u8; 16] = [0x6b, 0x1f, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];

fn encode<T: Xdr>(value: &T) -> Vec<u8> {
    let mut out = Encoder::new();
    value.encode(&mut out);
    out.into_vec()
}

#[test]
fn a_domain_is_its_name_padded_its_uuid_and_its_id() {
    let domain = remote::Domain { name: "debian".to_owned(), uuid: UUID, id: -1 };
    let mut bytes = b"\0\0\0\x06debian\0\0".to_vec();
    bytes.extend(UUID);
    bytes.extend([0xff; 4]);
    assert_eq!(encode(&domain), bytes);
    assert_eq!(remote::Domain::decode(&mut Decoder::new(&bytes)).unwrap(), domain);
}

#[test]
fn an_error_has_eleven_members_and_leaves_out_domain_and_network() {
    let error = remote::Error {
        code: 42,
        domain: 10,
        message: Some("no".to_owned()),
        level: 2,
        str1: Some("%s".to_owned()),
        str2: Some("no".to_owned()),
        int1: -1,
        int2: -1,
        ..Default::default()
    };
    let bytes = [
        [0, 0, 0, 42].as_slice(),  // code
        &[0, 0, 0, 10],            // domain
        &[0, 0, 0, 1, 0, 0, 0, 2], // message: present, two bytes
        b"no\0\0",
        &[0, 0, 0, 2],                             // level
        &[0, 0, 0, 0],                             // dom: absent
        b"\0\0\0\x01\0\0\0\x02%s\0\0",             // str1
        b"\0\0\0\x01\0\0\0\x02no\0\0",             // str2
        &[0, 0, 0, 0],                             // str3: absent
        &[255, 255, 255, 255, 255, 255, 255, 255], // int1, int2
        &[0, 0, 0, 0],                             // net: absent
    ]
    .concat();
    assert_eq!(encode(&error), bytes);
    assert_eq!(remote::Error::decode(&mut Decoder::new(&bytes)).unwrap(), error);
}

#[test]
fn any_mark_but_zero_says_that_a_value_follows() {
    // go-libvirt writes the mark in the other byte order.
    let bytes = b"\x01\0\0\0\0\0\0\x04qemu\0\0\0\x01";
    let args = remote::ConnectOpenArgs::decode(&mut Decoder::new(bytes)).unwrap();
    assert_eq!(args, remote::ConnectOpenArgs { name: Some("qemu".to_owned()), flags: 1 });
}

#[test]
fn an_empty_string_is_not_an_absent_one() {
    let empty = remote::ConnectOpenArgs { name: Some(String::new()), flags: 0 };
    assert_eq!(encode(&empty), [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encode(&remote::ConnectOpenArgs::default()), [0; 8]);
}

#[test]
fn the_model_of_the_node_takes_four_bytes_a_character() {
    let info = remote::NodeGetInfoRet { model: chars::filled("x86", 32), memory: 1, ..Default::default() };
    let bytes = encode(&info);
    assert_eq!(bytes[..16], [0, 0, 0, b'x', 0, 0, 0, b'8', 0, 0, 0, b'6', 0, 0, 0, 0]);
    assert_eq!(bytes[16..128], [0; 112]);
    assert_eq!(bytes[128..136], [0, 0, 0, 0, 0, 0, 0, 1]);
    // memory, then six ints: cpus, mhz, nodes, sockets, cores, threads.
    assert_eq!(bytes.len(), 128 + 8 + 6 * 4);
    let back = remote::NodeGetInfoRet::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!(back, info);
    assert_eq!(chars::to_text(&back.model), "x86");
}

#[test]
fn small_integers_take_four_bytes() {
    let info = remote::DomainGetInfoRet { state: 5, max_mem: 2, memory: 1, nr_virt_cpu: 300, cpu_time: 0 };
    let bytes = encode(&info);
    assert_eq!(bytes[..4], [0, 0, 0, 5]);
    assert_eq!(bytes[20..24], [0, 0, 1, 44]);
    assert_eq!(bytes.len(), 4 + 8 + 8 + 4 + 8);
}

#[test]
fn a_small_integer_that_is_too_large_is_refused() {
    let mut bytes = vec![0, 0, 1, 0];
    bytes.resize(32, 0);
    let result = remote::DomainGetInfoRet::decode(&mut Decoder::new(&bytes));
    assert!(matches!(result, Err(XdrError::OutOfRange { value: 256, ty: "u8" })), "{result:?}");
}

#[test]
fn a_char_is_read_with_and_without_sign() {
    assert_eq!(i8::decode(&mut Decoder::new(&[0, 0, 0, 0xc3])).unwrap(), -61);
    assert_eq!(i8::decode(&mut Decoder::new(&[0xff, 0xff, 0xff, 0xc3])).unwrap(), -61);
    assert!(i8::decode(&mut Decoder::new(&[0, 0, 1, 0])).is_err());
}

#[test]
fn a_typed_parameter_is_name_type_and_value() {
    let param = remote::TypedParam { field: "cpu".to_owned(), value: remote::TypedParamValue::Ullong(7) };
    assert_eq!(encode(&param), *b"\0\0\0\x03cpu\0\0\0\0\x04\0\0\0\0\0\0\0\x07");
    let param = remote::TypedParam { field: "cpu".to_owned(), value: remote::TypedParamValue::Boolean(true) };
    assert_eq!(encode(&param), *b"\0\0\0\x03cpu\0\0\0\0\x06\0\0\0\x01");
}

#[test]
fn a_typed_parameter_of_an_unknown_type_is_refused() {
    let result = remote::TypedParam::decode(&mut Decoder::new(b"\0\0\0\x03cpu\0\0\0\0\x08\0\0\0\0"));
    assert!(matches!(result, Err(XdrError::UnknownArm { found: 8, .. })), "{result:?}");
}

#[test]
fn a_string_must_be_utf8_and_its_padding_may_be_anything() {
    let mut input = Decoder::new(b"\0\0\0\x02ab\xee\xee");
    assert_eq!(input.string(2).unwrap(), "ab");
    assert!(matches!(Decoder::new(b"\0\0\0\x01\xff\0\0\0").string(4), Err(XdrError::NotUtf8(_))));
}

#[test]
fn an_unknown_login_type_passes_through() {
    let bytes = [0, 0, 0, 1, 0, 0, 0, 9];
    let types = remote::AuthListRet::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!(types.types, [remote::AuthType(9)]);
    assert_eq!(remote::AuthType::POLKIT, remote::AuthType(2));
}

#[test]
fn bytes_after_the_arguments_are_seen_only_by_who_asks() {
    let mut out = Encoder::new();
    out.put(&remote::DomainLookupByIdArgs { id: 1 }).unwrap();
    let mut bytes = out.into_vec();
    bytes.push(0);
    let mut input = Decoder::new(&bytes);
    assert!(remote::DomainLookupByIdArgs::decode(&mut input).is_ok());
    assert!(matches!(input.finish(), Err(XdrError::Trailing { left: 1 })));
}
