//! Documents written to do harm: each is refused, or read, within a bound of time that a slow machine keeps easily.
// Helpers of tests stop as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use model::limits::{MAX_ATTRIBUTES, MAX_BYTES, MAX_DEPTH, MAX_MARKUP, MAX_NAMESPACES};
use model::{Domain, DumpOptions, XmlError};

/// What honest code takes a fraction of, in a debug build on a busy machine; quadratic work takes minutes.
const BOUND: Duration = Duration::from_secs(20);

fn parse(xml: &str) -> Result<model::Parsed<Domain>, XmlError> {
    let begun = Instant::now();
    let parsed = Domain::parse(xml);
    assert!(begun.elapsed() < BOUND, "{:?} for {} bytes", begun.elapsed(), xml.len());
    parsed
}

fn domain_with(inside: &str) -> String {
    format!("<domain type='kvm'><name>a</name><memory>1</memory><os><type>hvm</type></os>{inside}</domain>")
}

#[test]
fn deep_nesting_is_refused_where_it_becomes_too_deep() {
    for depth in [MAX_DEPTH + 1, 100_000] {
        let xml = format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        let error = parse(&xml).unwrap_err();
        assert!(matches!(error, XmlError::TooDeep { limit: MAX_DEPTH, .. }), "{error}");
        assert_eq!((error.line(), error.column()), (1, 3 * 64 + 1));
        assert!(error.path().starts_with("a/a/a/") && error.path().chars().count() <= 65);
    }
}

#[test]
fn the_deepest_document_is_read_and_written() {
    let depth = MAX_DEPTH - 2;
    let xml = domain_with(&format!("<metadata>{}{}</metadata>", "<a>".repeat(depth), "</a>".repeat(depth)));
    let kept = domain_with(&format!("<pm>{}{}</pm>", "<a>".repeat(depth), "</a>".repeat(depth)));
    for xml in [xml, kept] {
        let domain = parse(&xml).unwrap().value;
        assert_eq!(parse(&domain.to_xml(&DumpOptions::default())).unwrap().value, domain);
    }
}

#[test]
fn long_documents_are_refused() {
    let error = parse(&" ".repeat(MAX_BYTES + 1)).unwrap_err();
    assert!(matches!(error, XmlError::TooLarge { what: "bytes", .. }), "{error}");
    let error = parse(&domain_with(&"x".repeat(5 * 1024 * 1024))).unwrap_err();
    assert!(matches!(error, XmlError::TooLarge { what: "bytes", .. }), "{error}");
    let description = "y".repeat(MAX_BYTES - 200);
    let parsed = parse(&domain_with(&format!("<description>{description}</description>"))).unwrap();
    assert_eq!(parsed.value.description.as_deref(), Some(description.as_str()));
}

#[test]
fn too_much_markup_is_refused_before_a_tree_is_made() {
    let attributes: String = (0..=MAX_ATTRIBUTES).map(|i| format!(" a{i}=''")).collect();
    let namespaces = "<b xmlns:n='urn:n'/>".repeat(MAX_NAMESPACES + 1);
    let cases = [
        ("< ".repeat(MAX_MARKUP + 1), "'<'"),
        ("=".repeat(MAX_MARKUP + 1), "'='"),
        (domain_with(&"<b/>".repeat(MAX_MARKUP)), "'<'"),
        (domain_with(&format!("<pm{attributes}/>")), "attributes on one element"),
        (domain_with(&namespaces), "namespace declarations"),
    ];
    for (xml, expected) in cases {
        match parse(&xml) {
            Err(XmlError::TooLarge { what, .. }) => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn what_is_just_allowed_costs_little() {
    let many = MAX_MARKUP - 64;
    let namespaces: String = (0..MAX_NAMESPACES - 1).map(|i| format!(" xmlns:n{i}='urn:{i}'")).collect();
    let cases = [
        // One line of unknown elements: places and notices for each.
        domain_with(&"<u/>".repeat(many)),
        domain_with(&format!("<devices>{}</devices>", "<interface/>".repeat(many))),
        domain_with(&format!("<pm{namespaces}>{}</pm>", "<a/>".repeat(many))),
        domain_with(&"t<u/>".repeat(many)),
        domain_with(&format!("<description>{}</description>", "<![CDATA[x]]>".repeat(many))),
        domain_with(&format!("<os><type>hvm</type>{}</os>", "<boot dev='hd'/>".repeat(many / 2))).replacen(
            "<os><type>hvm</type></os>",
            "",
            1,
        ),
    ];
    for xml in cases {
        let domain = parse(&xml).unwrap().value;
        let written = domain.to_xml(&DumpOptions::default());
        assert!(written.len() < 4 * MAX_BYTES);
    }
}

#[test]
fn notices_are_bounded_though_everything_is_kept() {
    let parsed = parse(&domain_with(&"<u/>".repeat(1000))).unwrap();
    assert_eq!((parsed.notices.len(), parsed.value.rest.elements.len()), (256, 1000));
}

#[test]
fn document_types_and_their_entities_are_refused() {
    let laughs = "<?xml version='1.0'?>\n<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>\n<domain>&b;</domain>";
    let error = parse(laughs).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, column 1: document: a document type declaration is refused; expected an element"
    );
    assert!(matches!(parse("<!DOCTYPE d SYSTEM 'file:///etc/passwd'><d/>"), Err(XmlError::DocumentType { .. })));
    assert!(matches!(parse("<!doctype d><d/>"), Err(XmlError::NotWellFormed { .. })));
    assert!(matches!(parse(&domain_with("&xxe;")), Err(XmlError::NotWellFormed { .. })));
}

#[test]
fn a_message_repeats_little_of_what_it_refuses() {
    let long = "z".repeat(1_000_000);
    for xml in [
        format!("<{long}/>"),
        domain_with(&format!("<uuid>{long}</uuid>")),
        domain_with(&format!("<vcpu>{}</vcpu>", "9".repeat(1_000_000))),
        domain_with(&format!("<on_crash>{long}</on_crash>")),
        domain_with(&format!("<devices><disk type='{long}'/></devices>")),
        domain_with(&format!("<pm></{long}>")),
        domain_with(&format!("&{long};")),
    ] {
        let error = parse(&xml).unwrap_err();
        assert!(error.to_string().len() < 1000, "{} bytes", error.to_string().len());
        assert!(error.hint().unwrap_or_default().len() < 1000);
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(source.len() < 1000, "{} bytes", source.len());
    }
}

#[test]
fn long_names_are_refused_and_wide_gaps_do_not_confuse_the_copy() {
    let (long, longer, gap) = ("n".repeat(1020), "n".repeat(1025), " ".repeat(300));
    let xml = domain_with(&format!("<pm xmlns:p='urn:p' {long}{gap}={gap}'ä' p:{long}='{longer}'/>"));
    let domain = parse(&xml).unwrap().value;
    assert_eq!(parse(&domain.to_xml(&DumpOptions::default())).unwrap().value, domain);
    for inside in [format!("<{longer}/>"), format!("<pm {longer}='1'/>"), format!("<pm a=''{longer}{gap}='1'/>")] {
        let error = parse(&domain_with(&inside)).unwrap_err();
        assert!(matches!(error, XmlError::TooLarge { what: "bytes in one name", .. }), "{error}");
    }
}
