//! The structure of the crates: files import one way, and `rpc-runtime` keeps the order of
//! ARCHITECTURE.md.
//!
//! A file imports another one if it names an item that the other one defines, in a `use` or in a
//! path. A re-export is followed to the file of the item, so `use super::X` is an import from the
//! sibling that defines `X`, not from its parent. A re-export is an import only if the file itself
//! uses the name. `mod child;` and `use` of a module are no imports by themselves; the paths through
//! the module are. Test code is not considered.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{Item, UseTree};

const CRATES: [&str; 5] =
    ["rpc-macros", "rpc-runtime", "rpc-registry", "rpc-nameserver", "examples"];

/// Files that are known to import in a circle. The list may only become shorter.
const KNOWN_IN_CIRCLES: &[&str] = &[];

/// Modules of `rpc-runtime` that are known to import from a row below their own, as
/// `importer -> imported`. The list may only become shorter.
const KNOWN_AGAINST_THE_ORDER: &[&str] = &[];

/// Modules of one row of which neither imports the other.
const APART: [[&str; 2]; 1] = [["client", "server"]];

#[test]
fn no_file_imports_in_a_circle() {
    let mut found = BTreeSet::new();
    let mut report = String::new();
    for name in CRATES {
        let imports = Crate::read(name).imports();
        for circle in circles(&imports) {
            report.push_str(&describe(&circle, &imports));
            found.extend(circle);
        }
    }
    let known: BTreeSet<_> = KNOWN_IN_CIRCLES.iter().map(|file| (*file).to_owned()).collect();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "these files import in a circle: {new:#?}\n{report}");
    let mended: Vec<_> = known.difference(&found).collect();
    assert!(mended.is_empty(), "remove these files from the list of known circles: {mended:#?}");
}

#[test]
fn no_module_of_the_runtime_uses_a_row_below_its_own() {
    let rows = rows();
    let mut against = BTreeSet::new();
    let krate = Crate::read("rpc-runtime");
    for (from, to) in krate.imports().keys() {
        let (Some(from), Some(to)) = (krate.module_of(from), krate.module_of(to)) else { continue };
        let row = |module: &str| {
            *rows.get(module).unwrap_or_else(|| {
                panic!("ARCHITECTURE.md has no row for the module `{module}` of rpc-runtime")
            })
        };
        let (upper, lower) = (row(&to), row(&from));
        let is_apart = APART.iter().all(|apart| apart.contains(&&*from) && apart.contains(&&*to));
        let is_allowed = from == to || (upper <= lower && !is_apart);
        if !is_allowed {
            against.insert(format!("{from} -> {to}"));
        }
    }
    let known: BTreeSet<_> = KNOWN_AGAINST_THE_ORDER.iter().map(|it| (*it).to_owned()).collect();
    let new: Vec<_> = against.difference(&known).collect();
    assert!(new.is_empty(), "these imports are against the order of ARCHITECTURE.md: {new:#?}");
    let mended: Vec<_> = known.difference(&against).collect();
    assert!(mended.is_empty(), "remove these from the list of known imports: {mended:#?}");
}

/// The rows of the modules of `rpc-runtime`, from the table in ARCHITECTURE.md.
fn rows() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut rows = BTreeMap::new();
    let table = text.lines().skip_while(|line| !line.starts_with("| row | modules |"));
    for line in table.skip(2).take_while(|line| line.starts_with('|')) {
        let mut cells = line.split('|').skip(1);
        let row = cells.next().unwrap().trim().parse().unwrap();
        let modules = cells.next().unwrap().split('`').skip(1).step_by(2);
        rows.extend(modules.map(|module| (module.to_owned(), row)));
    }
    assert!(rows.len() > 10, "the table of ARCHITECTURE.md is not found: {rows:?}");
    rows
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The files that import, those that they import from, and the names.
type Imports = BTreeMap<(String, String), BTreeSet<String>>;

/// A module's path within its crate, the crate's root being empty.
type ModulePath = Vec<String>;

struct Crate {
    name: &'static str,
    modules: BTreeMap<ModulePath, Module>,
}

#[derive(Default)]
struct Module {
    /// Relative to the root of the workspace.
    file: String,
    children: BTreeSet<String>,
    defined: BTreeSet<String>,
    /// The paths of imports and re-exports, by the name that they have here.
    imported: BTreeMap<String, Vec<String>>,
    /// The paths of imports that are no re-exports.
    private: BTreeSet<Vec<String>>,
    /// The modules whose public names are imported.
    globs: Vec<Vec<String>>,
    /// All other paths, as they are written; names alone, too.
    named: BTreeSet<Vec<String>>,
}

impl Crate {
    fn read(name: &'static str) -> Self {
        let mut krate = Self { name, modules: BTreeMap::new() };
        let source = root().join(name).join("src");
        krate.read_file(&source.join("lib.rs"), &source, Vec::new());
        krate
    }

    /// `folder` is where the files of the module's children are.
    fn read_file(&mut self, path: &Path, folder: &Path, at: ModulePath) {
        let text = fs::read_to_string(path).unwrap_or_else(|it| panic!("{}: {it}", path.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|it| panic!("{}: {it}", path.display()));
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        self.read_items(parsed.items, file, folder, at);
    }

    fn read_items(&mut self, items: Vec<Item>, file: String, folder: &Path, at: ModulePath) {
        let mut module = Module { file: file.clone(), ..Module::default() };
        for item in items.into_iter().filter(|item| !is_test(item)) {
            match item {
                Item::Mod(child) => {
                    let mut name = child.ident.to_string();
                    let below = folder.join(&name);
                    let places = match path_of(&child.attrs) {
                        // The children of such a file are beside it.
                        Some(path) => vec![(folder.join(path), folder)],
                        None => vec![
                            (folder.join(format!("{name}.rs")), &*below),
                            (below.join("mod.rs"), &*below),
                        ],
                    };
                    let found = places.into_iter().find(|(path, _)| path.exists());
                    // Of two files for different targets, names are looked up in the first.
                    if !module.children.insert(name.clone()) {
                        name.push_str(" (2)");
                    }
                    let path = [&at[..], &[name]].concat();
                    match child.content {
                        Some((_, items)) => self.read_items(items, file.clone(), &below, path),
                        None => {
                            let (found, below) =
                                found.unwrap_or_else(|| panic!("{file}: no {path:?}"));
                            self.read_file(&found, below, path);
                        }
                    }
                }
                Item::Use(it) => {
                    let is_private = matches!(it.vis, syn::Visibility::Inherited);
                    module.import(&it.tree, is_private, &mut Vec::new());
                }
                Item::Macro(it) => {
                    let exported = it.attrs.iter().any(|it| it.path().is_ident("macro_export"));
                    if let Some(name) = it.ident.filter(|_| !exported) {
                        module.defined.insert(name.to_string());
                    } else {
                        module.visit_macro(&it.mac);
                    }
                }
                item => {
                    module.defined.extend(name_of(&item));
                    module.visit_item(&item);
                }
            }
        }
        self.modules.insert(at, module);
    }

    /// Which files import from which.
    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (at, module) in &self.modules {
            let used = module.private.iter().chain(&module.named).chain(&module.globs);
            for path in used {
                let Some(file) = self.file_of(at, path, 0) else { continue };
                if file != module.file {
                    let edge = (module.file.clone(), file);
                    imports.entry(edge).or_default().insert(path.join("::"));
                }
            }
        }
        imports
    }

    /// The file that defines what `path` names in the module `at`. `None` for what is not of this
    /// crate, and for a mere module.
    fn file_of(&self, at: &[String], path: &[String], depth: u32) -> Option<String> {
        // Only a circle of re-exports is as deep.
        if depth > 32 {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.file_below(&[], rest, depth),
            "self" => self.file_below(at, rest, depth),
            "super" => self.file_of(at.split_last()?.1, &prefixed("self", rest), depth),
            _ => self.file_below(at, path, depth),
        }
    }

    fn file_below(&self, at: &[String], path: &[String], depth: u32) -> Option<String> {
        let module = self.modules.get(at)?;
        let (first, rest) = path.split_first()?;
        if first == "super" {
            return self.file_of(at, path, depth + 1);
        }
        if module.defined.contains(first) {
            return Some(module.file.clone());
        }
        if module.children.contains(first) {
            return self.file_below(&[at, std::slice::from_ref(first)].concat(), rest, depth);
        }
        if let Some(import) = module.imported.get(first) {
            return self.file_of(at, &[import, rest].concat(), depth + 1);
        }
        let through = |glob: &Vec<String>| {
            let target = [glob, path].concat();
            matches!(glob.first().map(String::as_str), Some("crate" | "self" | "super"))
                .then(|| self.file_of(at, &target, depth + 1))
                .flatten()
        };
        module.globs.iter().find_map(through)
    }

    /// The top-level module that a file belongs to; `None` for the root.
    fn module_of(&self, file: &str) -> Option<String> {
        let below = file.strip_prefix(self.name)?.strip_prefix("/src/")?;
        let first = below.split('/').next()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (name != "lib").then(|| name.to_owned())
    }
}

fn prefixed(first: &str, rest: &[String]) -> Vec<String> {
    [&[first.to_owned()], rest].concat()
}

impl Module {
    fn import(&mut self, tree: &UseTree, is_private: bool, path: &mut Vec<String>) {
        let (name, here) = match tree {
            UseTree::Path(it) => {
                path.push(it.ident.to_string());
                self.import(&it.tree, is_private, path);
                path.pop();
                return;
            }
            UseTree::Group(it) => {
                it.items.iter().for_each(|tree| self.import(tree, is_private, path));
                return;
            }
            UseTree::Glob(_) => return self.globs.push(path.clone()),
            UseTree::Name(it) => (it.ident.to_string(), it.ident.to_string()),
            UseTree::Rename(it) => (it.ident.to_string(), it.rename.to_string()),
        };
        let full = match name.as_str() {
            "self" => path.clone(),
            _ => [&path[..], &[name]].concat(),
        };
        let here = if here == "self" { full.last().cloned().unwrap_or_default() } else { here };
        if is_private {
            self.private.insert(full.clone());
        }
        self.imported.insert(here, full);
    }

    /// The paths in the arguments of a macro, which are only tokens.
    fn name_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(it) => {
                    if colons != 2 {
                        self.end(&mut path);
                    }
                    path.push(it.to_string());
                    colons = 0;
                }
                TokenTree::Punct(it) if it.as_char() == ':' && !path.is_empty() => colons += 1,
                other => {
                    self.end(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.name_tokens(group.stream());
                    }
                }
            }
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if !path.is_empty() {
            self.named.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Module {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.named.insert(path.segments.iter().map(|it| it.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, it: &'ast syn::ItemUse) {
        self.import(&it.tree, true, &mut Vec::new());
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        self.name_tokens(it.tokens.clone());
        visit::visit_macro(self, it);
    }

    fn visit_impl_item_fn(&mut self, it: &'ast syn::ImplItemFn) {
        if !is_for_tests(&it.attrs) {
            visit::visit_impl_item_fn(self, it);
        }
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::TraitAlias(it) => &it.ident,
        Item::Type(it) => &it.ident,
        Item::Union(it) => &it.ident,
        _ => return None,
    };
    Some(name.to_string())
}

fn is_test(item: &Item) -> bool {
    let attrs = match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => return false,
    };
    is_for_tests(attrs)
}

/// The file of `#[path = "…"]`, or of the first `#[cfg_attr(…, path = "…")]`.
fn path_of(attrs: &[syn::Attribute]) -> Option<String> {
    attrs.iter().find_map(|it| match &it.meta {
        syn::Meta::NameValue(it) if it.path.is_ident("path") => {
            it.value.to_token_stream().into_iter().find_map(text)
        }
        syn::Meta::List(it) if it.path.is_ident("cfg_attr") => {
            let tokens = it.tokens.clone().into_iter();
            tokens.skip_while(|it| it.to_string() != "path").find_map(text)
        }
        _ => None,
    })
}

/// The text of a string literal.
fn text(token: TokenTree) -> Option<String> {
    let TokenTree::Literal(it) = token else { return None };
    Some(it.to_string().strip_prefix('"')?.strip_suffix('"')?.to_owned())
}

fn is_for_tests(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|it| {
        it.path().is_ident("cfg")
            && it.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

/// The largest groups of files of which each imports all others, directly or not.
fn circles(imports: &Imports) -> Vec<BTreeSet<String>> {
    let mut direct = BTreeMap::<&String, Vec<&String>>::new();
    for (from, to) in imports.keys() {
        direct.entry(from).or_default().push(to);
    }
    let reached = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            for to in direct.get(file).into_iter().flatten() {
                if seen.insert((*to).clone()) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<_, _> = direct.keys().map(|file| (*file, reached(file))).collect();
    let mut circles = BTreeSet::new();
    for (file, reached) in reach.iter().filter(|(file, reached)| reached.contains(**file)) {
        let is_mutual = |other: &&String| reach.get(*other).is_some_and(|it| it.contains(*file));
        circles.insert(reached.iter().filter(is_mutual).cloned().collect::<BTreeSet<_>>());
    }
    circles.into_iter().collect()
}

fn describe(circle: &BTreeSet<String>, imports: &Imports) -> String {
    let mut text = format!("\na circle of {} files:\n", circle.len());
    for ((from, to), names) in imports {
        if circle.contains(from) && circle.contains(to) {
            text.push_str(&format!("  {from} -> {to}: {names:?}\n"));
        }
    }
    text
}
