//! The folder of a `file:` URI.

use std::env;
use std::path::{Path, PathBuf};

use crate::private_files;
use crate::{RegistryError, RegistryUri};

/// Maximum length of a short name, in bytes.
const MAX_NAME: usize = 64;

/// The absolute path of `file:///absolute`, `file:/absolute`, `file:./relative`, or `file:name` for
/// a folder of this user. A relative path is resolved now, so that a later change of the working
/// directory has no effect.
pub(super) fn folder(uri: &RegistryUri) -> Result<PathBuf, RegistryError> {
    if uri.user().is_some() {
        return Err(uri.wrong("a file: URI has no user"));
    }
    if let Some(host) = uri.authority()
        && host != "localhost"
    {
        return Err(uri.wrong(format!("it names the host {host:?}")).with_hint(format!(
            "write file:///{host}{path} for an absolute path, file:./{host}{path} for a relative one",
            path = uri.path()
        )));
    }
    if uri.path().is_empty() {
        return Err(uri
            .wrong("it names no folder")
            .with_hint("write it like file:rpc-demo or file:///srv/rpc-demo"));
    }
    if !uri.path().contains('/') {
        return named(uri, uri.path());
    }
    std::path::absolute(Path::new(uri.path())).map_err(|error| {
        uri.wrong(format!("its path can't be made absolute: {error}")).with_source(error)
    })
}

fn named(uri: &RegistryUri, name: &str) -> Result<PathBuf, RegistryError> {
    let is_name = name.len() <= MAX_NAME
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !is_name {
        return Err(uri.wrong(format!("{name:?} is not a valid folder name")).with_hint(format!(
            "a name has up to {MAX_NAME} ASCII letters, digits, '-', '_' and '.', and does not begin \
             with '.'; write file:./{name} for a path from the current folder"
        )));
    }
    let folder = own_folder(env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)).join(name);
    std::path::absolute(folder).map_err(|error| {
        uri.wrong(format!("the folder for temporary files has no path: {error}")).with_source(error)
    })
}

/// The parent of this user's folders with short names.
fn own_folder(runtime: Option<PathBuf>) -> PathBuf {
    match runtime {
        // The variable stays set when a program changes to another user.
        Some(runtime) if runtime.is_absolute() && private_files::is_own(&runtime) => {
            runtime.join("rpc")
        }
        _ => env::temp_dir().join(match private_files::user() {
            Some(user) => format!("rpc-{user}"),
            None => "rpc".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(uri: &str) -> Result<PathBuf, RegistryError> {
        folder(&RegistryUri::parse(uri).unwrap())
    }

    #[test]
    fn absolute_and_relative_folders_are_understood() {
        let here = env::current_dir().unwrap();
        assert_eq!(path("file:///tmp/a%20b").unwrap(), Path::new("/tmp/a b"));
        assert_eq!(path("file://localhost/tmp/x").unwrap(), Path::new("/tmp/x"));
        assert_eq!(path("file:/tmp/x").unwrap(), Path::new("/tmp/x"));
        assert_eq!(path("file:./dir").unwrap(), here.join("dir"));
        assert_eq!(path("file:some/dir").unwrap(), here.join("some/dir"));
    }

    #[test]
    fn a_forgotten_slash_is_explained_instead_of_becoming_a_host() {
        let error = path("file://tmp/x").unwrap_err();
        assert!(error.is_invalid_uri());
        assert!(error.to_string().contains("file:///tmp/x"), "{error}");
        assert!(path("file:").unwrap_err().to_string().contains("names no folder"));
        assert!(path("file://me@/x").unwrap_err().is_invalid_uri());
    }

    #[test]
    fn a_short_name_is_a_folder_of_this_user_alone() {
        assert!(path("file:rpc-demo").unwrap().ends_with("rpc-demo"));
        let runtime = tempfile::tempdir().unwrap();
        let own = own_folder(Some(runtime.path().to_owned()));
        assert_eq!(own, runtime.path().join("rpc"));
        for unusable in [None, Some("relative".into()), Some(runtime.path().join("missing"))] {
            let own = own_folder(unusable);
            assert_eq!(own.parent(), Some(env::temp_dir().as_path()));
            let user = private_files::user().map_or(String::new(), |user| user.to_string());
            assert!(own.to_str().unwrap().ends_with(&user), "{own:?}");
        }
    }

    #[test]
    fn what_is_neither_a_name_nor_a_path_is_explained() {
        for bad in [".", "..", ".hidden", "a%20b", "a%5Cb", "\u{e4}", &"x".repeat(65)] {
            let error = path(&format!("file:{bad}")).unwrap_err();
            assert!(error.is_invalid_uri(), "{bad}");
            assert!(error.to_string().contains("write file:./"), "{error}");
        }
    }
}
