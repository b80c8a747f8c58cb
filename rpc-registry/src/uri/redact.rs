/// Replaces credentials by `***`. Error messages also show text that is not a URI, or whose
/// password has characters that should be encoded. In doubt more is hidden than needed: everything
/// between a colon and the last `@`.
pub(super) fn redact(text: &str) -> String {
    let after_scheme = text.find(':').map_or(0, |colon| colon + 1);
    let (scheme, rest) = text.split_at(after_scheme);
    let visible = match rest.rsplit_once('@').map(|(before, after)| (before.split_once(':'), after))
    {
        Some((Some((user, _)), after)) => format!("{scheme}{user}:***@{after}"),
        _ => text.to_owned(),
    };
    let Some((before_query, query)) = visible.split_once('?') else { return visible };
    let mut shown = before_query.to_owned();
    for (n, pair) in query.split('&').enumerate() {
        shown.push(if n == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => shown.extend([name, "=***"]),
            _ => shown.push_str(pair),
        }
    }
    shown
}

fn is_secret(name: &str) -> bool {
    // A percent-encoded name is treated as a secret.
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "%"].iter().any(|mark| name.contains(mark))
}
