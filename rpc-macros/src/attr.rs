//! The options in `#[rpc_service(…)]` and `#[rpc(…)]`.

mod duration;
mod suggest;

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Path, Token};

use crate::errors::Errors;

/// The options in `#[rpc_service(name = "…", version = "…", group = "…", crate = path)]`.
pub(crate) struct ServiceOptions {
    /// `None` for the name of the trait.
    pub(crate) name: Option<String>,
    pub(crate) version: String,
    pub(crate) group: String,
    /// The path of the runtime in the user's code.
    pub(crate) runtime: TokenStream,
}

/// The options in `#[rpc(…)]` on a method.
#[derive(Default)]
pub(crate) struct MethodOptions {
    /// `None` for the name of the method.
    pub(crate) name: Option<LitStr>,
    pub(crate) idempotent: bool,
    pub(crate) oneway: bool,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) dispatch: Option<Dispatch>,
}

/// Where the provider runs a method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dispatch {
    Inline,
    Spawn,
    Blocking,
}

impl ServiceOptions {
    const KEYS: &[&str] = &["name", "version", "group", "crate"];

    pub(crate) fn parse(args: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self {
            name: None,
            version: "1.0.0".to_owned(),
            group: String::new(),
            runtime: quote!(::rpc_runtime),
        };
        let entries = Entry::parse_list.parse2(args).unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        });
        refuse_repeated(&entries, errors);
        for entry in entries {
            match entry.key.to_string().as_str() {
                "name" => options.name = entry.wire_name(errors).map(|name| name.value()),
                "version" => {
                    if let Some(version) = entry.version(errors) {
                        options.version = version;
                    }
                }
                "group" => {
                    if let Some(group) = entry.string("blue", errors) {
                        options.group = group.value();
                    }
                }
                "crate" => {
                    if let Some(path) = entry.path(errors) {
                        options.runtime = quote!(#path);
                    }
                }
                _ => entry.refuse_key("rpc_service", Self::KEYS, errors),
            }
        }
        options
    }
}

impl MethodOptions {
    const KEYS: &[&str] =
        &["name", "idempotent", "oneway", "timeout", "inline", "spawn", "blocking"];

    /// Removes the `#[rpc]` attributes from `attrs` and parses them.
    pub(crate) fn take(attrs: &mut Vec<Attribute>, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        for entry in take_entries(attrs, errors) {
            match entry.key.to_string().as_str() {
                "name" => options.name = entry.wire_name(errors),
                "idempotent" => options.idempotent = entry.flag(errors),
                "oneway" => options.oneway = entry.flag(errors),
                "timeout" => options.timeout_ms = entry.timeout(errors),
                "inline" => options.set_dispatch(Dispatch::Inline, &entry, errors),
                "spawn" => options.set_dispatch(Dispatch::Spawn, &entry, errors),
                "blocking" => options.set_dispatch(Dispatch::Blocking, &entry, errors),
                "default" => errors.at(
                    &entry.key,
                    "`default` belongs on an argument: `#[rpc(default)] limit: u32`",
                ),
                _ => entry.refuse_key("rpc", Self::KEYS, errors),
            }
        }
        options
    }

    fn set_dispatch(&mut self, mode: Dispatch, entry: &Entry, errors: &mut Errors) {
        entry.flag(errors);
        if self.dispatch.replace(mode).is_some() {
            errors.at(
                &entry.key,
                "`inline`, `spawn` and `blocking` exclude each other: a method runs in one place",
            );
        }
    }
}

/// Removes `#[rpc(default)]` from the attributes of an argument. Returns whether it was present.
pub(crate) fn take_default(attrs: &mut Vec<Attribute>, errors: &mut Errors) -> bool {
    let mut defaulted = false;
    for entry in take_entries(attrs, errors) {
        if entry.key == "default" {
            defaulted = entry.flag(errors);
        } else if MethodOptions::KEYS.contains(&entry.key.to_string().as_str()) {
            let message = format!("`{}` belongs on the method, above its `async fn`", entry.key);
            errors.at(&entry.key, message);
        } else {
            entry.refuse_key("rpc", &["default"], errors);
        }
    }
    defaulted
}

/// Removes the `#[rpc]` attributes from `attrs` and reports them as errors.
pub(crate) fn refuse_rpc(attrs: &mut Vec<Attribute>, reason: &str, errors: &mut Errors) {
    for attr in attrs.extract_if(.., |attr| attr.path().is_ident("rpc")) {
        errors.at(attr, reason);
    }
    refuse_conditional_rpc(attrs, errors);
}

/// The `#[cfg]` attributes of an item, which all items generated for it repeat.
pub(crate) fn cfg_attributes(attrs: &[Attribute]) -> Vec<Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).cloned().collect()
}

pub(crate) fn is_deprecated(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| attr.path().is_ident("deprecated"))
}

fn take_entries(attrs: &mut Vec<Attribute>, errors: &mut Errors) -> Vec<Entry> {
    let mut entries = Vec::new();
    for attr in attrs.extract_if(.., |attr| attr.path().is_ident("rpc")) {
        match attr.parse_args_with(Entry::parse_list) {
            Ok(list) => entries.extend(list),
            Err(error) => errors.push(error),
        }
    }
    refuse_conditional_rpc(attrs, errors);
    refuse_repeated(&entries, errors);
    entries
}

/// Reports `#[rpc]` in `cfg_attr`, which the compiler expands only after this macro.
fn refuse_conditional_rpc(attrs: &mut Vec<Attribute>, errors: &mut Errors) {
    for attr in attrs.extract_if(.., |attr| conditional_rpc(attr).is_some()) {
        errors.at(
            conditional_rpc(&attr),
            "`#[rpc]` cannot be conditional, since it is part of the contract: \
             write two methods under opposite `#[cfg]`s",
        );
    }
}

/// The `rpc(…)` in `#[cfg_attr(…, rpc(…))]`.
fn conditional_rpc(attr: &Attribute) -> Option<Meta> {
    if !attr.path().is_ident("cfg_attr") {
        return None;
    }
    let parts = attr.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
    parts.into_iter().skip(1).find(|part| part.path().is_ident("rpc"))
}

fn refuse_repeated(entries: &[Entry], errors: &mut Errors) {
    for (index, entry) in entries.iter().enumerate() {
        if entries[..index].iter().any(|earlier| earlier.key == entry.key) {
            errors.at(&entry.key, format!("`{}` is given twice", entry.key));
        }
    }
}

/// An option `key` or `key = value`.
struct Entry {
    key: Ident,
    value: Option<Expr>,
}

impl Parse for Entry {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        // `crate` is a keyword.
        let key = Ident::parse_any(input)?;
        let value = match input.parse::<Option<Token![=]>>()? {
            Some(_) => Some(input.parse()?),
            None => None,
        };
        Ok(Self { key, value })
    }
}

impl Entry {
    fn parse_list(input: ParseStream<'_>) -> syn::Result<Vec<Self>> {
        let entries = Punctuated::<Self, Token![,]>::parse_terminated(input)?;
        Ok(entries.into_iter().collect())
    }

    fn flag(&self, errors: &mut Errors) -> bool {
        if let Some(value) = &self.value {
            errors.at(value, format!("`{}` takes no value", self.key));
        }
        true
    }

    fn string(&self, example: &str, errors: &mut Errors) -> Option<LitStr> {
        if let Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) = &self.value {
            return Some(text.clone());
        }
        let message = format!("write `{} = \"{example}\"`", self.key);
        match &self.value {
            Some(value) => errors.at(value, message),
            None => errors.at(&self.key, message),
        }
        None
    }

    /// Parses a name that is visible to peers, registries and logs.
    fn wire_name(&self, errors: &mut Errors) -> Option<LitStr> {
        let name = self.string("example", errors)?;
        let text = name.value();
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            errors.at(&name, "a name cannot be empty or contain spaces");
        }
        Some(name)
    }

    fn version(&self, errors: &mut Errors) -> Option<String> {
        let literal = self.string("1.0.0", errors)?;
        let text = literal.value();
        let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty();
        if text.split('.').count() != 3 || !text.split('.').all(is_number) {
            let message = format!(
                "`{text}` is not a version: write `major.minor.patch` in numbers, such as `1.2.0`"
            );
            errors.at(&literal, message);
        }
        Some(text)
    }

    fn timeout(&self, errors: &mut Errors) -> Option<u64> {
        let literal = self.string("200ms", errors)?;
        duration::parse_ms(&literal.value()).map_err(|message| errors.at(&literal, message)).ok()
    }

    fn path(&self, errors: &mut Errors) -> Option<Path> {
        match &self.value {
            Some(Expr::Path(path)) if path.qself.is_none() => return Some(path.path.clone()),
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => {
                if let Ok(path) = text.parse_with(Path::parse_mod_style) {
                    return Some(path);
                }
                errors.at(text, "write a path: `crate = my_crate::rpc_runtime`");
            }
            Some(value) => errors.at(value, "write a path: `crate = my_crate::rpc_runtime`"),
            None => errors.at(&self.key, "write a path: `crate = my_crate::rpc_runtime`"),
        }
        None
    }

    fn refuse_key(&self, attribute: &str, keys: &[&str], errors: &mut Errors) {
        let key = &self.key;
        let advice = match suggest::nearest(&key.to_string(), keys) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the options are {}", list(keys)),
        };
        errors.at(key, format!("`#[{attribute}]` has no option `{key}`: {advice}"));
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use quote::quote;
    use syn::parse_quote;

    use super::*;

    fn service(args: TokenStream) -> (ServiceOptions, String) {
        let mut errors = Errors::default();
        let options = ServiceOptions::parse(args, &mut errors);
        (options, errors.into_compile_errors().to_string())
    }

    fn method(mut attrs: Vec<Attribute>) -> (MethodOptions, String) {
        let mut errors = Errors::default();
        let options = MethodOptions::take(&mut attrs, &mut errors);
        (options, errors.into_compile_errors().to_string())
    }

    #[test]
    fn a_bare_attribute_has_defaults() {
        let (options, errors) = service(quote!());
        assert_eq!(errors, "");
        assert_eq!(options.name, None);
        assert_eq!((options.version.as_str(), options.group.as_str()), ("1.0.0", ""));
        assert_eq!(options.runtime.to_string(), ":: rpc_runtime");
    }

    #[test]
    fn every_key_of_a_service_is_read() {
        let (options, errors) = service(quote!(
            name = "acme.Hello",
            version = "2.10.0",
            group = "blue",
            crate = crate::rpc,
        ));
        assert_eq!(errors, "");
        assert_eq!(options.name.as_deref(), Some("acme.Hello"));
        assert_eq!((options.version.as_str(), options.group.as_str()), ("2.10.0", "blue"));
        assert_eq!(options.runtime.to_string(), "crate :: rpc");
        assert_eq!(service(quote!(crate = "a::b")).0.runtime.to_string(), "a :: b");
    }

    #[test]
    fn every_key_of_a_method_is_read_and_taken_away() {
        let mut attrs: Vec<Attribute> = vec![
            parse_quote!(#[doc = "kept"]),
            parse_quote!(#[rpc(name = "x", idempotent)]),
            parse_quote!(#[rpc(oneway, timeout = "2s", blocking)]),
        ];
        let mut errors = Errors::default();
        let options = MethodOptions::take(&mut attrs, &mut errors);
        assert_eq!(errors.count(), 0);
        assert_eq!(attrs.len(), 1);
        assert_eq!(options.name.map(|name| name.value()).as_deref(), Some("x"));
        assert!(options.idempotent && options.oneway);
        assert_eq!(options.timeout_ms, Some(2_000));
        assert_eq!(options.dispatch, Some(Dispatch::Blocking));
    }

    #[test]
    fn all_errors_of_one_attribute_are_found_at_once() {
        let (_, errors) = method(vec![parse_quote!(
            #[rpc(idempotant, timeout = "5us", name = 3, inline, spawn, oneway = true, oneway)]
        )]);
        for part in [
            "did you mean `idempotent`?",
            "finer than",
            "write `name = \\\"example\\\"`",
            "exclude each other",
            "takes no value",
            "`oneway` is given twice",
        ] {
            assert!(errors.contains(part), "{part}: {errors}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for version in ["1", "1.2", "1.2.x", "1.2.3.4", "v1.2.3", "1..2", "", "1.2.3-rc1"] {
            let (_, errors) = service(quote!(version = #version));
            assert!(errors.contains("is not a version"), "{version}");
        }
    }

    #[test]
    fn a_conditional_attribute_is_refused() {
        let (_, errors) = method(vec![parse_quote!(#[cfg_attr(test, rpc(idempotent))])]);
        assert!(errors.contains("cannot be conditional"), "{errors}");
        let (_, errors) = method(vec![parse_quote!(#[cfg_attr(test, deprecated)])]);
        assert_eq!(errors, "");
    }
}
