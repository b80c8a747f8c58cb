//! The text of `registry.jsonl`: a header, then one JSON object per line. No I/O here.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lease::is_plain;
use crate::Instance;

/// The version of the format that this code reads and writes.
pub(super) const VERSION: u64 = 1;

/// The first line. A program that finds another version there must not touch the file.
const HEADER: &str = concat!(
    r#"{"rpc_registry":1,"hint":"one instance per line; a line counts while its provider runs; "#,
    r#"edit with care, and replace the file as a whole"}"#
);

/// The content of a list.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Arc<ListEntry>>,
    /// The first damage, if there is any. The entries are then those that could be read.
    pub(super) damage: Option<Damage>,
}

/// One registration.
#[derive(Debug)]
pub(super) struct ListEntry {
    pub(super) instance: Instance,
    /// The name of the lock file that the provider holds, without its extension.
    pub(super) lease: String,
    /// The process lease of the provider; `None` for entries of older programs.
    pub(super) process_lease: Option<ProcessLeaseRef>,
    /// The text as it was read: rewriting the list must not remove what a newer version or a person
    /// has added to the line.
    line: String,
}

/// A reference to the process lease of a provider.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProcessLeaseRef {
    /// The name of its file.
    pub(super) name: String,
    /// The entry expires when the file is older.
    pub(super) lease_time: Duration,
}

/// A part of a list that cannot be read.
#[derive(Debug, PartialEq)]
pub(super) struct Damage {
    /// The number of the line, from 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// The list has another format version, as its header shows it.
#[derive(Debug, PartialEq)]
pub(super) struct OtherVersion(pub(super) String);

#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    instance: Instance,
    lease: String,
    beat: Option<String>,
    ttl_ms: Option<u64>,
}

#[derive(Serialize)]
struct LineRef<'a> {
    #[serde(flatten)]
    instance: &'a Instance,
    lease: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    beat: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

impl ListEntry {
    pub(super) fn new(
        instance: Instance,
        lease: String,
        process_lease: Option<ProcessLeaseRef>,
    ) -> Result<Self, serde_json::Error> {
        let line = serde_json::to_string(&LineRef {
            instance: &instance,
            lease: &lease,
            beat: process_lease.as_ref().map(|it| it.name.as_str()),
            ttl_ms: process_lease
                .as_ref()
                .map(|it| u64::try_from(it.lease_time.as_millis()).unwrap_or(u64::MAX)),
        })?;
        Ok(Self { instance, lease, process_lease, line })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let Line { instance, lease, beat, ttl_ms } =
            serde_json::from_str(text).map_err(|e| without_line(&e))?;
        instance.validate().map_err(|error| error.to_string())?;
        // The names become parts of paths, so they must not lead out of the folder.
        for name in [Some(&lease), beat.as_ref()].into_iter().flatten() {
            if !is_plain(name) {
                return Err(format!("{name:?} is not the name of a lease"));
            }
        }
        let process_lease = match (beat, ttl_ms) {
            (Some(name), Some(ms)) => {
                Some(ProcessLeaseRef { name, lease_time: Duration::from_millis(ms) })
            }
            (None, None) => None,
            _ => return Err("of \"beat\" and \"ttl_ms\" one is missing".to_owned()),
        };
        Ok(Self { instance, lease, process_lease, line: text.to_owned() })
    }
}

/// An entry, compared by its service and id.
struct Named(Arc<ListEntry>);

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.instance.service(), self.0.instance.id()).hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (&self.0.instance, &other.0.instance);
        one.id() == two.id() && one.service() == two.service()
    }
}

impl Eq for Named {}

/// Reads a list. An empty file has no instances. Blank lines are skipped.
///
/// The unchanged lines of a `known` list are not read again.
pub(super) fn parse<'a>(
    bytes: &[u8],
    known: impl IntoIterator<Item = &'a Arc<ListEntry>>,
) -> Result<Contents, OtherVersion> {
    let known: HashMap<_, _> =
        known.into_iter().map(|entry| (entry.line.as_bytes(), entry)).collect();
    // Some editors put a byte order mark in front.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut contents = Contents::default();
    let mut seen = HashMap::new();
    let mut header = false;
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if !header {
            header = true;
            match version(line) {
                Some(Value::Number(found)) if found.as_u64() == Some(VERSION) => continue,
                Some(other) => return Err(OtherVersion(other.to_string())),
                None => contents.damaged(number, "the header is missing".to_owned()),
            }
        }
        let entry = match (known.get(line), str::from_utf8(line)) {
            (Some(entry), _) => Ok(Arc::clone(entry)),
            (None, Ok(text)) => ListEntry::parse(text).map(Arc::new),
            (None, Err(_)) => Err("it is not UTF-8".to_owned()),
        };
        match entry {
            Ok(entry) => {
                if let Some(first) = seen.insert(Named(Arc::clone(&entry)), number) {
                    contents.damaged(number, format!("it repeats the id of line {first}"));
                } else {
                    contents.entries.push(entry);
                }
            }
            Err(reason) => contents.damaged(number, reason),
        }
    }
    Ok(contents)
}

/// Writes a list.
pub(super) fn render<'a>(entries: impl IntoIterator<Item = &'a Arc<ListEntry>>) -> String {
    let mut text = String::from(HEADER);
    for entry in entries {
        text.push('\n');
        text.push_str(&entry.line);
    }
    text.push('\n');
    text
}

/// A list after it was read and written again, and whether all of it could be read. The error is
/// the version of another format.
#[cfg(feature = "__fuzz")]
pub fn rewritten_list(bytes: &[u8]) -> Result<(String, bool), String> {
    let contents = parse(bytes, []).map_err(|OtherVersion(version)| version)?;
    let again = parse(bytes, &contents.entries).map_err(|OtherVersion(version)| version)?;
    assert_eq!(render(&again.entries), render(&contents.entries), "lines that are known");
    Ok((render(&contents.entries), contents.damage.is_none()))
}

impl Contents {
    fn damaged(&mut self, line: usize, reason: String) {
        self.damage.get_or_insert(Damage { line, reason });
    }
}

/// The version in a header line; `None` if the line is not a header.
fn version(line: &[u8]) -> Option<Value> {
    match serde_json::from_slice(line) {
        Ok(Value::Object(mut header)) => header.remove("rpc_registry"),
        _ => None,
    }
}

/// Each line is parsed separately, so "at line 1" would be misleading.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, _)) if error.column() > 0 => format!("{reason} (column {})", error.column()),
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str) -> Arc<ListEntry> {
        let instance = Instance::new("svc", "tcp://127.0.0.1:1").with_id(id);
        let (name, lease_time) = ("beat-1".to_owned(), Duration::from_secs(2));
        let process_lease = ProcessLeaseRef { name, lease_time };
        Arc::new(ListEntry::new(instance, format!("{id}-lease"), Some(process_lease)).unwrap())
    }

    fn parse(bytes: &[u8]) -> Result<Contents, OtherVersion> {
        super::parse(bytes, [])
    }

    fn ids(contents: &Contents) -> Vec<&str> {
        contents.entries.iter().map(|entry| entry.instance.id()).collect()
    }

    fn damage(text: &[u8]) -> Damage {
        parse(text).unwrap().damage.expect("damage was not noticed")
    }

    #[test]
    fn what_was_written_is_read() {
        let text = render(&[entry("a"), entry("b")]);
        let contents = parse(text.as_bytes()).unwrap();
        assert_eq!((ids(&contents), &contents.damage), (vec!["a", "b"], &None));
        assert_eq!(contents.entries[0].lease, "a-lease");
        assert_eq!(contents.entries[0].process_lease, entry("a").process_lease);
        assert_eq!(render(&contents.entries), text);
        assert!(text.ends_with('\n') && text.lines().count() == 3);
    }

    #[test]
    fn a_line_that_is_known_is_the_same_entry_and_one_that_was_edited_is_not() {
        let (a, b) = (entry("a"), entry("b"));
        let text = render([&a, &b]).replace("\"id\":\"b\"", "\"id\": \"b\"");
        let contents = super::parse(text.as_bytes(), [&a, &b]).unwrap();
        assert!(Arc::ptr_eq(&contents.entries[0], &a));
        assert!(!Arc::ptr_eq(&contents.entries[1], &b));
        assert_eq!(ids(&contents), ["a", "b"]);
    }

    #[test]
    fn entries_of_older_programs_have_no_process_lease() {
        let line = |rest| {
            format!("{HEADER}\n{{\"service\":\"s\",\"id\":\"a\",\"uri\":\"tcp://h:1\"{rest}}}")
        };
        let old = parse(line(",\"lease\":\"l\"").as_bytes()).unwrap();
        assert_eq!((old.entries[0].process_lease.as_ref(), &old.damage), (None, &None));
        for half in [",\"lease\":\"l\",\"beat\":\"b\"", ",\"lease\":\"l\",\"ttl_ms\":9"] {
            assert_eq!(damage(line(half).as_bytes()).line, 2, "{half}");
        }
        let outside = ",\"lease\":\"l\",\"beat\":\"../x\",\"ttl_ms\":9";
        assert!(damage(line(outside).as_bytes()).reason.contains("../x"));
    }

    #[test]
    fn an_empty_or_blank_file_has_no_instances() {
        for text in ["", "\n", " \n\r\n", "\u{feff}"] {
            let contents = parse(text.as_bytes()).unwrap();
            assert!(contents.entries.is_empty() && contents.damage.is_none());
        }
    }

    #[test]
    fn edits_of_a_person_survive_a_rewrite() {
        let line = r#"{ "lease": "x-1", "note": {"by": "me"}, "service":"svc","id":"x","uri":"tcp://h:1"}"#;
        let text = format!("\u{feff}{HEADER}\r\n\r\n  {line}\r\n");
        let contents = parse(text.as_bytes()).unwrap();
        assert_eq!(contents.damage, None);
        assert_eq!(render(&contents.entries), format!("{HEADER}\n{line}\n"));
    }

    #[test]
    fn a_damaged_line_is_named_and_the_others_are_kept() {
        let whole = render(&[entry("a"), entry("b"), entry("c")]);
        for broken in ["{", "[]", "7", "{}", "# note", r#"{"service":"svc","id":"b"}"#] {
            let mut lines: Vec<_> = whole.lines().collect();
            lines[2] = broken;
            let contents = parse(lines.join("\n").as_bytes()).unwrap();
            assert_eq!(ids(&contents), ["a", "c"], "{broken}");
            assert_eq!(contents.damage.unwrap().line, 3, "{broken}");
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_is_read_without_inventing_anything() {
        let whole = render(&[entry("a"), entry("b")]);
        for end in 0..whole.len() {
            if let Ok(contents) = parse(&whole.as_bytes()[..end]) {
                assert!(["a", "b"].starts_with(&ids(&contents)), "cut at {end}");
            }
        }
    }

    #[test]
    fn values_that_would_do_harm_are_damage() {
        let line = |service: &str, lease: &str, weight: &str| {
            format!(
                "{HEADER}\n{{\"service\":{service:?},\"id\":\"a\",\"uri\":\"tcp://h:1\",\"weight\":\
                 {weight},\"lease\":{lease:?}}}"
            )
        };
        assert_eq!(parse(line("svc", "l", "1").as_bytes()).unwrap().damage, None);
        for (service, lease, weight) in [
            ("", "l", "1"),
            ("a b", "l", "1"),
            ("svc", "../../etc/passwd", "1"),
            ("svc", "", "1"),
            ("svc", "l", "-1"),
            ("svc", "l", "1e99"),
        ] {
            assert_eq!(damage(line(service, lease, weight).as_bytes()).line, 2);
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_damage() {
        let mut bytes = render(&[entry("a")]).into_bytes();
        bytes.extend(b"\xff\xfe\n");
        assert_eq!(damage(&bytes), Damage { line: 3, reason: "it is not UTF-8".into() });
    }

    #[test]
    fn a_line_copied_without_a_new_id_is_damage() {
        let text = render(&[entry("a"), entry("a")]);
        assert_eq!(damage(text.as_bytes()).reason, "it repeats the id of line 2");
    }

    #[test]
    fn a_missing_header_is_damage_but_the_line_is_kept() {
        let text = render(&[entry("a")]);
        let contents = parse(text.lines().last().unwrap().as_bytes()).unwrap();
        assert_eq!(ids(&contents), ["a"]);
        assert_eq!(contents.damage.unwrap().line, 1);
    }

    #[test]
    fn another_version_is_not_touched() {
        for version in ["2", "0", "-1", "\"1\"", "1.5", "null"] {
            let text = format!("{{\"rpc_registry\":{version}}}\n{{\"service\":7}}");
            assert_eq!(parse(text.as_bytes()).unwrap_err(), OtherVersion(version.to_owned()));
        }
    }
}
