use std::path::Path;

use crate::RegistryError;

/// The URI of the file registry in `folder`, with special characters escaped.
///
/// # Errors
///
/// `is_invalid_uri` if the path is not UTF-8.
///
/// ```
/// let uri = rpc_registry::file_uri("/tmp/100% local")?;
/// assert_eq!(uri, "file:///tmp/100%25%20local");
/// # Ok::<(), rpc_registry::RegistryError>(())
/// ```
pub fn file_uri(folder: impl AsRef<Path>) -> Result<String, RegistryError> {
    let folder = folder.as_ref();
    let path = folder.to_str().ok_or_else(|| {
        RegistryError::invalid_uri(format!("the path {} is not UTF-8", folder.display()))
    })?;
    let mut uri = String::from(if folder.is_absolute() { "file://" } else { "file:" });
    if folder.is_relative() && !path.contains('/') {
        // Otherwise it would be a short name.
        uri.push_str("./");
    }
    for c in path.chars() {
        match c {
            '%' | '?' | '#' => uri.push_str(&format!("%{:02X}", u32::from(c))),
            c if c.is_whitespace() || c.is_control() => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|b| uri.push_str(&format!("%{b:02X}")));
            }
            c => uri.push(c),
        }
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RegistryUri;

    #[test]
    fn a_file_uri_leads_back_to_its_path() {
        for path in ["/tmp/a b", "/x%20?y#z", "relative/ä\t\u{a0}", "/"] {
            let uri = RegistryUri::parse(&file_uri(path).unwrap()).unwrap();
            assert_eq!((uri.scheme(), uri.path()), ("file", path));
        }
    }
}
