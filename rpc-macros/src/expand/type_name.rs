use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;

/// The text of a type with normal spacing, such as `rpc_runtime::Result<HashMap<String, [u8; 4]>>`.
pub(crate) fn type_name(ty: impl ToTokens) -> String {
    let mut text = String::new();
    write(ty.into_token_stream(), &mut text);
    text
}

fn write(tokens: TokenStream, text: &mut String) {
    // Consecutive words need a space between them.
    let mut after_word = false;
    for token in tokens {
        let is_word = matches!(token, TokenTree::Ident(_) | TokenTree::Literal(_));
        if is_word && after_word {
            text.push(' ');
        }
        after_word = is_word;
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                write(group.stream(), text);
                text.push_str(close);
            }
            TokenTree::Punct(punct) => match punct.as_char() {
                ',' | ';' => {
                    text.push(punct.as_char());
                    text.push(' ');
                }
                sign @ ('+' | '=') => text.push_str(&format!(" {sign} ")),
                // The first character of `->`, which never appears alone in a type.
                '-' if punct.spacing() == Spacing::Joint => text.push_str(" -"),
                '>' if text.ends_with(" -") => text.push_str("> "),
                sign => text.push(sign),
            },
            word => text.push_str(&word.to_string()),
        }
    }
    // A significant trailing comma is kept, as in `(u8,)`.
    text.truncate(text.trim_end().len());
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::type_name;

    #[test]
    fn types_read_as_their_author_would_write_them() {
        for (tokens, text) in [
            (quote!(String), "String"),
            (quote!(()), "()"),
            (quote!((u8,)), "(u8,)"),
            (quote!((u8, Vec<i64>)), "(u8, Vec<i64>)"),
            (quote!(::std::result::Result<u8, my::Error>), "::std::result::Result<u8, my::Error>"),
            (quote!(HashMap<String, [u8; 4]>), "HashMap<String, [u8; 4]>"),
            (quote!(Cow<'static, str>), "Cow<'static, str>"),
            (quote!(Box<dyn Event + Send>), "Box<dyn Event + Send>"),
            (quote!(fn(u8) -> u16), "fn(u8) -> u16"),
            (quote!(<V as Store>::Key), "<V as Store>::Key"),
            (quote!(&'static mut str), "&'static mut str"),
        ] {
            assert_eq!(type_name(tokens), text);
        }
    }
}
