//! Title, description and the elements of applications: libvirt's metadata.

use api::{Error, ErrorCode, consts::MetadataType, remote};
use model::{Domain, MetadataError};

use crate::error::Errors;

/// The kind of note that a call's number means.
pub fn kind(errors: &Errors, number: i32) -> Result<MetadataType, Error> {
    MetadataType::try_from(number).map_err(|_| errors.invalid(format_args!("unknown metadata type '{number}'")))
}

/// What a question about a note must say. Gives the kind that is asked for.
pub fn check_question(errors: &Errors, args: &remote::DomainGetMetadataArgs) -> Result<MetadataType, Error> {
    let kind = kind(errors, args.r#type)?;
    if kind == MetadataType::Element && args.uri.is_none() {
        return Err(errors.bad_argument("uri in virDomainGetMetadata must not be NULL"));
    }
    Ok(kind)
}

/// What a document has noted down.
pub fn read(errors: &Errors, domain: &Domain, kind: MetadataType, uri: Option<&str>) -> Result<String, Error> {
    let found = match kind {
        MetadataType::Description => domain.description.clone(),
        MetadataType::Title => domain.title.clone(),
        MetadataType::Element => uri.and_then(|uri| domain.metadata_of(uri)),
    };
    found.ok_or_else(|| {
        let text = "metadata not found: Requested metadata element is not present";
        errors.told(ErrorCode::NO_DOMAIN_METADATA, text)
    })
}

/// What a new note must be. Gives its kind.
pub fn check(errors: &Errors, args: &remote::DomainSetMetadataArgs) -> Result<MetadataType, Error> {
    let kind = kind(errors, args.r#type)?;
    let refuse = |text: &str| Err(errors.bad_argument(text));
    match kind {
        MetadataType::Title if args.metadata.as_deref().is_some_and(|text| text.contains('\n')) => {
            refuse("metadata title can't contain newlines")
        }
        MetadataType::Element if args.uri.is_none() => refuse("uri in virDomainSetMetadata must not be NULL"),
        MetadataType::Element if args.metadata.is_some() && args.key.is_none() => {
            refuse("key in virDomainSetMetadata must not be NULL")
        }
        _ => Ok(kind),
    }
}

/// Notes something down in a document, or forgets it.
pub fn write(errors: &Errors, domain: &mut Domain, args: &remote::DomainSetMetadataArgs) -> Result<(), Error> {
    let text = args.metadata.clone().filter(|text| !text.is_empty());
    match kind(errors, args.r#type)? {
        MetadataType::Description => domain.description = text,
        MetadataType::Title => domain.title = text,
        MetadataType::Element => {
            let (key, uri) = (args.key.as_deref().unwrap_or_default(), args.uri.as_deref().unwrap_or_default());
            return domain.set_metadata_of(key, uri, args.metadata.as_deref()).map_err(|cause| {
                // libvirt's code for what its XML library cannot read.
                let code = match cause {
                    MetadataError::NotWellFormed(_) => ErrorCode::XML_DETAIL,
                    _ => ErrorCode::XML_ERROR,
                };
                errors.told(code, "XML error: the metadata cannot be used").with_cause(cause)
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ErrorDomain;
    use model::DomainType;

    const ERRORS: Errors = Errors::of_domains(ErrorDomain::TEST);

    fn note(kind: MetadataType, metadata: Option<&str>) -> remote::DomainSetMetadataArgs {
        remote::DomainSetMetadataArgs {
            r#type: kind.number(),
            metadata: metadata.map(Into::into),
            key: Some("k".into()),
            uri: Some("urn:k".into()),
            ..Default::default()
        }
    }

    #[test]
    fn notes_are_set_read_and_forgotten() {
        let mut domain = Domain::new(DomainType::Test, "t", 65_536, 4, "x86_64");
        for (kind, text) in [
            (MetadataType::Title, "a title"),
            (MetadataType::Description, "two\nlines"),
            (MetadataType::Element, "<x>1</x>"),
        ] {
            let set = note(kind, Some(text));
            assert_eq!(check(&ERRORS, &set), Ok(kind));
            write(&ERRORS, &mut domain, &set).unwrap();
            assert_eq!(read(&ERRORS, &domain, kind, Some("urn:k")).as_deref(), Ok(text));
            write(&ERRORS, &mut domain, &note(kind, None)).unwrap();
            let error = read(&ERRORS, &domain, kind, Some("urn:k")).unwrap_err();
            assert_eq!(error.code, ErrorCode::NO_DOMAIN_METADATA);
        }
    }

    #[test]
    fn what_cannot_be_a_note_is_refused() {
        let mut domain = Domain::new(DomainType::Test, "t", 65_536, 4, "x86_64");
        let title = check(&ERRORS, &note(MetadataType::Title, Some("a\nb"))).unwrap_err();
        assert_eq!(title.code, ErrorCode::INVALID_ARG);
        let element = write(&ERRORS, &mut domain, &note(MetadataType::Element, Some("<x"))).unwrap_err();
        assert_eq!(element.code, ErrorCode::XML_DETAIL);
        let prefix =
            remote::DomainSetMetadataArgs { key: Some("1".into()), ..note(MetadataType::Element, Some("<x/>")) };
        assert_eq!(write(&ERRORS, &mut domain, &prefix).unwrap_err().code, ErrorCode::XML_ERROR);
        let nameless = remote::DomainSetMetadataArgs { uri: None, ..note(MetadataType::Element, Some("<x/>")) };
        assert!(check(&ERRORS, &nameless).unwrap_err().message.contains("uri in virDomainSetMetadata"));
        assert!(kind(&ERRORS, 9).unwrap_err().message.contains("unknown metadata type '9'"));
    }
}
