//! Checks of a contract. Each error has a reason and a solution.

use quote::{ToTokens, quote};
use syn::visit::{self, Visit};
use syn::{
    FnArg, GenericArgument, GenericParam, ItemTrait, Lifetime, Pat, PatType, PathArguments,
    Receiver, ReceiverKind, ReturnType, Safety, TraitItem, TraitItemFn, Type,
};

use crate::ast::Method;
use crate::errors::Errors;
use crate::expand::type_name;

/// Maximum number of arguments: the runtime implements its traits for tuples up to this size.
const MAX_ARGUMENTS: usize = 16;

/// Inherent methods of every stub. They would hide a remote method of the same name.
const RESERVED: &[&str] =
    &["with_timeout", "with_encoding", "with_wait_for_ready", "with_metadata"];

/// Checks the trait itself and its items other than methods.
pub(crate) fn contract(contract: &ItemTrait, errors: &mut Errors) {
    if let Some(unsafety) = &contract.unsafety {
        errors.at(unsafety, "a service cannot be an `unsafe trait`: its stub is generated code");
    }
    for param in contract.generics.lifetimes() {
        errors.at(
            param,
            "a service cannot have a lifetime: it outlives every call, and nothing borrowed \
             crosses the wire",
        );
    }
    for item in &contract.items {
        match item {
            TraitItem::Fn(_) => {}
            TraitItem::Type(item) => errors.at(
                item,
                "a service cannot have associated types: its stub would not know them. \
                 Make it a parameter of the trait, `trait Store<V>`",
            ),
            TraitItem::Const(item) => errors.at(
                item,
                "a service cannot have associated constants: its stub would not know the \
                 provider's value. Make it a method",
            ),
            other => errors.at(
                other,
                "`#[rpc_service]` must see each method: write it out in place of the macro",
            ),
        }
    }
}

/// Checks a remote method.
pub(crate) fn method(function: &TraitItemFn, method: &Method, errors: &mut Errors) {
    qualifiers(function, errors);
    receiver(function, errors);
    generics(function, errors);
    arguments(function, errors);
    returns(function, method, errors);
    let name = &method.ident;
    if RESERVED.iter().any(|reserved| name == reserved) {
        errors.at(
            name,
            format!(
                "every stub has its own method `{name}`, which hides this one: rename it, \
                 and keep the name on the wire with `#[rpc(name = \"{name}\")]`"
            ),
        );
    }
}

/// Checks for two methods with the same wire name. With `cfg`, the compiler compares their ids.
pub(crate) fn distinct(earlier: &[Method], method: &Method, errors: &mut Errors) {
    let name = method.wire_name();
    let duplicate = earlier.iter().find(|other| {
        other.wire_name() == name
            && other.cfg_attributes.is_empty()
            && method.cfg_attributes.is_empty()
    });
    if let Some(duplicate) = duplicate {
        errors.at(
            method.name_token(),
            format!(
                "`{}` and `{}` both have the name `{name}` on the wire: \
                 give one a different name with `#[rpc(name = \"…\")]`",
                duplicate.ident, method.ident
            ),
        );
    }
}

fn qualifiers(function: &TraitItemFn, errors: &mut Errors) {
    let sig = &function.sig;
    let (fn_token, name) = (&sig.fn_token, &sig.ident);
    if sig.asyncness.is_none() {
        errors.at(
            quote!(#fn_token #name),
            format!(
                "a remote method is `async`: write `async fn {name}`, \
                 or give it a body to make it a local helper"
            ),
        );
    }
    if let Some(constness) = &sig.constness {
        errors.at(constness, "a remote method cannot be `const`: it runs in another process");
    }
    if let Safety::Unsafe(_) | Safety::Safe(_) = &sig.safety {
        errors.at(
            &sig.safety,
            "a remote method cannot be `unsafe`: its callers cannot give guarantees, so check the arguments",
        );
    }
    if let Some(abi) = &sig.abi {
        errors.at(abi, "a remote method has no ABI: remove `extern`");
    }
    if let Some(variadic) = &sig.variadic {
        errors.at(variadic, "a remote method has a fixed number of arguments: take a `Vec<T>`");
    }
}

fn receiver(function: &TraitItemFn, errors: &mut Errors) {
    let name = &function.sig.ident;
    let Some(FnArg::Receiver(receiver)) = function.sig.inputs.first() else {
        errors.at(
            name,
            format!("`{name}` needs `&self` as its first argument: it is called on a stub"),
        );
        return;
    };
    if !matches!(receiver.kind, ReceiverKind::Reference(_, None, None)) {
        let mut bare = Receiver::clone(receiver);
        bare.attrs.clear();
        errors.at(
            bare,
            "a remote method takes `&self`: a stub is shared, and a provider serves many calls \
             at once. Keep mutable state in a `Mutex` or an atomic",
        );
    }
}

fn generics(function: &TraitItemFn, errors: &mut Errors) {
    let generics = &function.sig.generics;
    if let Some(first) = generics.params.first() {
        let advice = match first {
            GenericParam::Lifetime(_) => "nothing borrowed crosses the wire; take owned values",
            _ => {
                "the provider cannot know the caller's types. \
                 Make it a parameter of the trait, or take an enum"
            }
        };
        errors.at(&generics.params, format!("a remote method cannot be generic: {advice}"));
    }
    if let Some(clause) = &generics.where_clause {
        errors.at(
            clause,
            "a remote method cannot have a `where` clause: write the bound on the trait",
        );
    }
}

fn arguments(function: &TraitItemFn, errors: &mut Errors) {
    let typed = function.sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    for (index, argument) in typed.enumerate() {
        if index == MAX_ARGUMENTS {
            errors.at(
                argument,
                format!(
                    "a remote method has at most {MAX_ARGUMENTS} arguments: \
                     put some of them in a struct"
                ),
            );
        }
        argument_pattern(argument, errors);
        if let Some(cfg) = argument.attrs.iter().find(|attr| attr.path().is_ident("cfg")) {
            errors.at(
                cfg,
                "an argument cannot be conditional, since both ends depend on its position: \
                 write two methods under opposite `#[cfg]`s",
            );
        }
        WireTypeCheck { position: Position::Argument, errors }.visit_type(&argument.ty);
    }
}

fn argument_pattern(argument: &PatType, errors: &mut Errors) {
    let advice = match &*argument.pat {
        plain if is_plain(plain) => return,
        Pat::Ident(complex) => format!("write `{}`", complex.ident),
        Pat::Wild(_) => "give it a name".to_owned(),
        _ => "destructure it in the implementation".to_owned(),
    };
    errors.at(
        &argument.pat,
        format!(
            "an argument of a remote method must be a plain name, since it is part of the contract: {advice}"
        ),
    );
}

/// Whether an argument is a plain name.
pub(crate) fn is_plain(pattern: &Pat) -> bool {
    matches!(pattern, Pat::Ident(plain)
        if plain.by_ref.is_none() && plain.mutability.is_none() && plain.subpat.is_none())
}

fn returns(function: &TraitItemFn, method: &Method, errors: &mut Errors) {
    let name = &function.sig.ident;
    let ReturnType::Type(_, ty) = &function.sig.output else {
        errors.at(
            name,
            format!(
                "`{name}` must return a `Result`, since every remote call can fail: \
                 write `-> rpc_runtime::Result<()>`"
            ),
        );
        return;
    };
    // Only the compiler knows whether a path is a `Result`, since it may be an alias. A reference
    // gets another error.
    let may_be_result = matches!(
        **ty,
        Type::Path(_) | Type::Macro(_) | Type::Group(_) | Type::Paren(_) | Type::Reference(_)
    );
    if !may_be_result {
        // `fn … -> impl Future` has already got an error.
        if function.sig.asyncness.is_some() {
            errors.at(
                ty,
                format!(
                    "`{name}` must return a `Result`, since every remote call can fail: \
                     write `rpc_runtime::Result<{}>`",
                    type_name(ty)
                ),
            );
        }
        return;
    }
    WireTypeCheck { position: Position::Return, errors }.visit_type(ty);
    if method.options.oneway
        && let Some(answer) = result_value(ty)
        && !matches!(answer, Type::Tuple(unit) if unit.elems.is_empty())
    {
        errors.at(
            answer,
            "a oneway call has no response; its `Result` says whether it was sent: \
             write `Result<()>`, or remove `oneway`",
        );
    }
}

/// The `T` of a return type `Result<T, …>`.
fn result_value(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Result")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(answer) => Some(answer),
        _ => None,
    }
}

enum Position {
    Argument,
    Return,
}

/// Reports the parts of a type that cannot be sent over the wire.
struct WireTypeCheck<'e> {
    position: Position,
    errors: &'e mut Errors,
}

impl WireTypeCheck<'_> {
    fn borrowed(&mut self, tokens: impl ToTokens, owned: &str) {
        let message = match self.position {
            Position::Argument => {
                format!("an argument is sent over the wire and cannot borrow: {owned}")
            }
            Position::Return => {
                format!("a result is sent over the wire and cannot borrow: {owned}")
            }
        };
        self.errors.at(tokens, message);
    }
}

impl<'ast> Visit<'ast> for WireTypeCheck<'_> {
    fn visit_type_reference(&mut self, reference: &'ast syn::TypeReference) {
        let owned = match &*reference.elem {
            Type::Path(path) if path.path.is_ident("str") => "write `String`".to_owned(),
            Type::Slice(slice) => {
                format!("write `Vec<{}>`", type_name(&slice.elem))
            }
            elem @ Type::Path(_) => format!("write `{}`", type_name(elem)),
            _ => "write an owned type".to_owned(),
        };
        self.borrowed(reference, &owned);
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if lifetime.ident != "static" {
            self.borrowed(lifetime, "write an owned type, or `'static`");
        }
    }

    fn visit_type_impl_trait(&mut self, ty: &'ast syn::TypeImplTrait) {
        self.errors.at(
            ty,
            "the provider cannot know the type behind `impl Trait`: name the type. \
             A stream travels as `rpc_runtime::Streaming<T>`",
        );
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.first().is_some_and(|first| first.ident == "Self") {
            self.errors
                .at(path, "`Self` is another type in the provider and in the stub: name the type");
        }
        visit::visit_path(self, path);
    }
}
