//! Settings of a [`Resilient`](super::Resilient) registry.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use crate::{RegistryError, RegistryUri};

/// Maximum of [`Protection::hold`] in a URI.
const MAX_HOLD: Duration = Duration::from_secs(86_400);

/// Protection against mass expiry: when instances that a registry no longer lists are kept.
///
/// A fault of the registry is more likely than the end of the providers in two cases: more than
/// [`percent`](Self::percent) of the instances of a service are missing in the first list after a
/// fault of the registry; or three or more instances, and more than that share, expire within ten
/// seconds. Then the missing instances are kept for a while, which is logged and reported by
/// [`Snapshot::source`](crate::Snapshot::source). Instances that leave in order are removed at
/// once.
///
/// At most [`max_kept`](Self::max_kept) instances of a service are kept, those that were listed for
/// longest. So a mass of short-lived registrations is not kept completely and does not displace
/// older instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Protection {
    /// The share of a list that may be missing, in per cent. Default 50; 100: no protection.
    pub percent: u8,
    /// How long missing instances are kept. Default 5 minutes.
    pub hold: Duration,
    /// Maximum missing instances of a service that are kept. Default 20,000.
    pub max_kept: usize,
}

impl Default for Protection {
    fn default() -> Self {
        Self { percent: 50, hold: Duration::from_secs(300), max_kept: 20_000 }
    }
}

impl Protection {
    /// No protection.
    pub fn off() -> Self {
        Self { percent: 100, ..Self::default() }
    }

    /// Sets the share of a list that may be missing, in per cent.
    pub fn with_percent(mut self, percent: u8) -> Self {
        self.percent = percent;
        self
    }

    /// Sets how long missing instances are kept.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Sets the maximum of missing instances of a service that are kept.
    pub fn with_max_kept(mut self, instances: usize) -> Self {
        self.max_kept = instances;
        self
    }

    pub(super) fn is_much(&self, gone: usize, known: usize) -> bool {
        gone.saturating_mul(100) > known.saturating_mul(self.percent.into())
    }
}

/// The settings of a [`Resilient`](crate::Resilient) registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ResilientSettings {
    /// The protection against mass expiry.
    pub protection: Protection,
    /// The folder of the cache files. Default `None`: no cache file.
    pub cache: Option<PathBuf>,
    /// The application that the cache file belongs to. Default empty: the name of the program.
    pub application: String,
}

impl ResilientSettings {
    /// The names of the parameters of [`from_uri`](Self::from_uri).
    pub const PARAMS: [&'static str; 5] =
        ["cache", "app", "protect", "protect_percent", "protect_max"];

    /// Reads the settings from the URI of a registry:
    ///
    /// | parameter | value |
    /// | --- | --- |
    /// | `cache=` | the folder of the cache file, or `off`; default `rpc-registry` in the user's cache folder (`$XDG_CACHE_HOME`, `$HOME/.cache`; none if neither is set) |
    /// | `app=` | the application that the cache file belongs to; default the program's name |
    /// | `protect=` | [`Protection::hold`], 0s to 1day, default 5m; or `off` |
    /// | `protect_percent=` | [`Protection::percent`], 0 to 100, default 50 |
    /// | `protect_max=` | [`Protection::max_kept`], 0 to 1000000, default 20000 |
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` for a value out of range.
    pub fn from_uri(uri: &RegistryUri) -> Result<Self, RegistryError> {
        let default = Protection::default();
        let percent = uri.number("protect_percent", default.percent.into(), 0..=100)?;
        let max_kept = uri.number("protect_max", 20_000, 0..=1_000_000)?;
        let protection = match uri.param("protect") {
            Some("off") => Protection::off(),
            _ => Protection {
                percent: u8::try_from(percent).unwrap_or(u8::MAX),
                hold: uri.duration("protect", default.hold, Duration::ZERO..=MAX_HOLD)?,
                max_kept: usize::try_from(max_kept).unwrap_or(usize::MAX),
            },
        };
        let cache = match uri.param("cache") {
            None => default_cache(),
            Some("off") => None,
            Some("") => return Err(uri.wrong("the parameter \"cache\" names no folder")),
            Some(folder) => Some(PathBuf::from(folder)),
        };
        let application = uri.param("app").unwrap_or_default().to_owned();
        Ok(Self { protection, cache, application })
    }

    /// The cache file for the registry with this URI.
    pub(super) fn cache_file(&self, uri: &str) -> Option<PathBuf> {
        let folder = self.cache.as_ref()?;
        let application = match self.application.as_str() {
            "" => program()?,
            named => named.to_owned(),
        };
        let readable = application.chars().take(80).map(|c| match c {
            c if c.is_ascii_alphanumeric() || "-_".contains(c) => c,
            _ => '-',
        });
        // The address identifies a registry, not the parameters.
        let place = uri.split_once('?').map_or(uri, |(place, _)| place);
        let mut hasher = DefaultHasher::new();
        (place, &application).hash(&mut hasher);
        let name = format!("{}-{:016x}.json", readable.collect::<String>(), hasher.finish());
        Some(folder.join(name))
    }
}

fn default_cache() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("rpc-registry"))
}

fn program() -> Option<String> {
    let path = env::current_exe().ok()?;
    Some(path.file_stem()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(uri: &str) -> Result<ResilientSettings, RegistryError> {
        ResilientSettings::from_uri(&RegistryUri::parse(uri).unwrap())
    }

    #[test]
    fn every_parameter_has_its_effect() {
        let protected = "protect_percent=80&protect=1s&protect_max=7";
        let read = settings(&format!("etcd://h?cache=/c&app=shop&{protected}")).unwrap();
        assert_eq!(read.protection.percent, 80);
        assert_eq!(read.protection.hold, Duration::from_secs(1));
        assert_eq!(read.protection.max_kept, 7);
        assert_eq!((read.cache, read.application.as_str()), (Some("/c".into()), "shop"));
        assert_eq!(settings("etcd://h?cache=off").unwrap().cache, None);
        assert_eq!(settings("etcd://h?protect=off").unwrap().protection, Protection::off());
        for bad in ["protect_percent=101", "protect=1000", "cache="] {
            assert!(settings(&format!("etcd://h?{bad}")).unwrap_err().is_invalid_uri(), "{bad}");
        }
    }

    #[test]
    fn each_registry_and_application_has_a_file_of_its_own() {
        let of = |app: &str, uri: &str| {
            let cache = Some("/c".into());
            let application = app.to_owned();
            ResilientSettings { cache, application, ..Default::default() }.cache_file(uri).unwrap()
        };
        let one = of("shop", "etcd://h/p?lease=5s");
        assert_eq!(one, of("shop", "etcd://h/p?lease=9s"));
        assert_ne!(one, of("shop", "etcd://h/q"));
        assert_ne!(one, of("till", "etcd://h/p"));
        let odd = of("../x y", "etcd://h/p");
        assert_eq!(odd.parent(), Some("/c".as_ref()));
        assert!(ResilientSettings::default().cache_file("etcd://h").is_none());
    }
}
