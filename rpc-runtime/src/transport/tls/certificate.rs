//! Reading the names of a peer's certificate, which was verified before. The alternative names are
//! read by the parser of rustls. This file reads the subject; a crate for all of X.509 would be ten
//! times the code.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::certificate::PeerCertificate;

/// The peer's certificate; `None` if it cannot be read.
pub(super) fn read(der: &CertificateDer<'_>) -> Option<PeerCertificate> {
    let certificate = EndEntityCert::try_from(der).ok()?;
    Some(PeerCertificate {
        subject: name(certificate.subject()).unwrap_or_default(),
        dns_names: certificate.valid_dns_names().map(str::to_owned).collect(),
        uris: certificate.valid_uri_names().map(str::to_owned).collect(),
        der: der.as_ref().to_vec(),
    })
}

#[cfg(feature = "__fuzz")]
pub(crate) fn peer_certificate(der: &[u8]) -> Option<PeerCertificate> {
    read(&CertificateDer::from(der))
}

#[cfg(feature = "__fuzz")]
pub(crate) fn certificate_name(der: &[u8]) -> Option<String> {
    name(der)
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;

/// The text of a name in DER without its outer tag: a sequence of sets of attributes.
fn name(der: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut sets = der;
    while !sets.is_empty() {
        let mut set = expect(SET, &mut sets)?;
        let mut separator = if text.is_empty() { "" } else { "," };
        while !set.is_empty() {
            let mut attribute = expect(SEQUENCE, &mut set)?;
            let kind = expect(OBJECT_ID, &mut attribute)?;
            let encoded = attribute;
            let (tag, value) = next(&mut attribute)?;
            text.push_str(separator);
            push_kind(&mut text, kind)?;
            text.push('=');
            match std::str::from_utf8(value) {
                Ok(value) if matches!(tag, UTF8 | PRINTABLE | IA5) => {
                    push_escaped(&mut text, value)
                }
                _ => push_hex(&mut text, encoded),
            }
            separator = "+";
        }
    }
    Some(text)
}

/// The content of the next element; `None` if it has another tag.
fn expect<'d>(tag: u8, der: &mut &'d [u8]) -> Option<&'d [u8]> {
    next(der).filter(|(found, _)| *found == tag).map(|(_, content)| content)
}

/// Tag and content of the next element. Lengths have at most two bytes, enough for names.
fn next<'d>(der: &mut &'d [u8]) -> Option<(u8, &'d [u8])> {
    let (length, rest) = match **der {
        [_, length, ref rest @ ..] if length < 0x80 => (usize::from(length), rest),
        [_, 0x81, length, ref rest @ ..] => (usize::from(length), rest),
        [_, 0x82, high, low, ref rest @ ..] => (usize::from(u16::from_be_bytes([high, low])), rest),
        _ => return None,
    };
    let tag = *der.first()?;
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some((tag, content))
}

/// Appends the short name of an attribute by RFC 4514, or its number.
fn push_kind(text: &mut String, oid: &[u8]) -> Option<()> {
    let short = match oid {
        [0x55, 0x04, 3] => "CN",
        [0x55, 0x04, 6] => "C",
        [0x55, 0x04, 7] => "L",
        [0x55, 0x04, 8] => "ST",
        [0x55, 0x04, 9] => "STREET",
        [0x55, 0x04, 10] => "O",
        [0x55, 0x04, 11] => "OU",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 1] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 25] => "DC",
        _ => {
            push_oid(text, oid)?;
            return Some(());
        }
    };
    text.push_str(short);
    Some(())
}

fn push_oid(text: &mut String, oid: &[u8]) -> Option<()> {
    let mut number = 0_u32;
    let mut first = true;
    for byte in oid {
        number = number.checked_mul(0x80)?.checked_add(u32::from(byte & 0x7f))?;
        if byte & 0x80 != 0 {
            continue;
        }
        // The first two numbers are encoded together. Writing to a string does not fail.
        let _ = match first {
            true => write!(text, "{}.{}", (number / 40).min(2), number - 40 * (number / 40).min(2)),
            false => write!(text, ".{number}"),
        };
        first = false;
        number = 0;
    }
    Some(())
}

fn push_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let at_an_end = (at == 0 && matches!(c, ' ' | '#')) || (at == last && c == ' ');
        if !rpc_registry::is_printable(c) {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(text, "\\{byte:02X}");
            }
            continue;
        }
        if at_an_end || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
            text.push('\\');
        }
        text.push(c);
    }
}

fn push_hex(text: &mut String, der: &[u8]) {
    text.push('#');
    for byte in der {
        let _ = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut der = vec![tag];
        match u8::try_from(content.len()) {
            Ok(length) if length < 0x80 => der.push(length),
            Ok(length) => der.extend([0x81, length]),
            Err(_) => {
                der.push(0x82);
                der.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            }
        }
        der.extend(content);
        der
    }

    fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        element(SEQUENCE, &[element(OBJECT_ID, oid), element(tag, value)].concat())
    }

    const CN: &[u8] = &[0x55, 4, 3];

    #[test]
    fn a_subject_reads_as_text_in_its_order() {
        let set = |attributes: &[Vec<u8>]| element(SET, &attributes.concat());
        let der = [
            set(&[attribute(&[0x55, 4, 6], PRINTABLE, b"DE")]),
            set(&[attribute(&[0x55, 4, 10], UTF8, "Müller".as_bytes()), attribute(CN, UTF8, b"a")]),
            set(&[attribute(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], IA5, b"a@b")]),
            set(&[attribute(CN, 0x1e, &[0, 65])]),
            set(&[attribute(CN, UTF8, &[b'x'; 300])]),
        ];
        let long = "x".repeat(300);
        let expected =
            format!("C=DE,O=Müller+CN=a,1.2.840.113549.1.9.1=a@b,CN=#1e020041,CN={long}");
        assert_eq!(name(&der.concat()), Some(expected));
    }

    #[test]
    fn a_name_cannot_pass_for_two() {
        let text =
            |value: &str| name(&element(SET, &attribute(CN, UTF8, value.as_bytes()))).unwrap();
        assert_eq!(text("a,CN=root"), r"CN=a\,CN\=root");
        assert_eq!(text("a+b\"<>;\\"), r#"CN=a\+b\"\<\>\;\\"#);
        assert_eq!(
            (text(" a "), text("#a"), text("a\n")),
            (r"CN=\ a\ ".into(), r"CN=\#a".into(), r"CN=a\0A".into())
        );
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_name_are_refused_and_never_panic(bytes: Vec<u8>) {
            let _ = name(&bytes);
        }

        #[test]
        fn a_name_that_is_cut_off_is_none(cut in 1_usize..20) {
            let der = element(SET, &attribute(CN, UTF8, b"somebody with a name"));
            prop_assert_eq!(name(&der[..der.len() - cut]), None);
        }
    }
}
