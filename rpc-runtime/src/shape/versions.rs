//! Property test of two random versions of a type: one end reads what the other has written by
//! name, or gets an error, but never another value.

use std::cell::RefCell;
use std::fmt;

use proptest::prelude::*;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::ser::{SerializeSeq, SerializeStruct, SerializeStructVariant, Serializer};
use serde::{Deserialize, Serialize};

use super::of;
use crate::protocol::payload::{Form, decode, encode};

/// Names of fields and of variants. Few, so that versions share them.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// The declaration of a type.
#[derive(Clone, Debug, PartialEq)]
enum Schema {
    U8,
    I64,
    Bool,
    Text,
    Unit,
    Option(Box<Schema>),
    Seq(Box<Schema>),
    Tuple(Vec<Schema>),
    Struct(Vec<Field>),
    Enum(Vec<(&'static str, Vec<Field>)>),
}

#[derive(Clone, Debug, PartialEq)]
struct Field {
    name: &'static str,
    /// `#[serde(default)]`
    default: bool,
    schema: Schema,
}

/// A value that was built or read, with fields by name.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    /// The value of a missing field.
    Default,
    Number(i64),
    Bool(bool),
    Text(String),
    Unit,
    Option(Option<Box<Value>>),
    Seq(Vec<Value>),
    Struct(Vec<(&'static str, Value)>),
    Variant(&'static str, Vec<(&'static str, Value)>),
}

thread_local! {
    /// The version of the reading end. Static, since the traits of serde cannot pass it.
    static VERSION: RefCell<Schema> = const { RefCell::new(Schema::Unit) };
}

fn leak<T: Clone>(items: Vec<T>) -> &'static [T] {
    items.leak()
}

/// The type whose declaration is [`VERSION`].
#[derive(Debug)]
struct Dynamic(Schema, Value);

impl<'de> Deserialize<'de> for Dynamic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let schema = VERSION.with_borrow(Clone::clone);
        let value = Reading(&schema).deserialize(deserializer)?;
        Ok(Self(schema, value))
    }
}

impl Serialize for Dynamic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Writing(&self.0, &self.1).serialize(serializer)
    }
}

/// Serializes as derived code would.
struct Writing<'v>(&'v Schema, &'v Value);

impl Serialize for Writing<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        match (self.0, self.1) {
            (Schema::U8, Value::Number(number)) => s.serialize_u8(*number as u8),
            (Schema::I64, Value::Number(number)) => s.serialize_i64(*number),
            (Schema::Bool, Value::Bool(bool)) => s.serialize_bool(*bool),
            (Schema::Text, Value::Text(text)) => s.serialize_str(text),
            (Schema::Unit, Value::Unit) => s.serialize_unit(),
            (Schema::Option(_), Value::Option(None)) => s.serialize_none(),
            (Schema::Option(schema), Value::Option(Some(value))) => {
                s.serialize_some(&Writing(schema, value))
            }
            (Schema::Seq(schema), Value::Seq(values)) => {
                let mut seq = s.serialize_seq(Some(values.len()))?;
                values
                    .iter()
                    .try_for_each(|value| seq.serialize_element(&Writing(schema, value)))?;
                seq.end()
            }
            (Schema::Tuple(schemas), Value::Seq(values)) => {
                use serde::ser::SerializeTuple;
                let mut tuple = s.serialize_tuple(values.len())?;
                for (schema, value) in schemas.iter().zip(values) {
                    tuple.serialize_element(&Writing(schema, value))?;
                }
                tuple.end()
            }
            (Schema::Struct(fields), Value::Struct(values)) => {
                let mut out = s.serialize_struct("Struct", fields.len())?;
                for (field, (_, value)) in fields.iter().zip(values) {
                    out.serialize_field(field.name, &Writing(&field.schema, value))?;
                }
                out.end()
            }
            (Schema::Enum(variants), Value::Variant(name, values)) => {
                let variant = variants.iter().enumerate().find(|(_, (known, _))| known == name);
                let (at, (_, fields)) = variant.unwrap();
                if fields.is_empty() {
                    return s.serialize_unit_variant("Enum", at as u32, name);
                }
                let mut out = s.serialize_struct_variant("Enum", at as u32, name, fields.len())?;
                for (field, (_, value)) in fields.iter().zip(values) {
                    out.serialize_field(field.name, &Writing(&field.schema, value))?;
                }
                out.end()
            }
            other => Err(S::Error::custom(format_args!("{other:?}"))),
        }
    }
}

struct Reading<'s>(&'s Schema);

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        match self.0 {
            Schema::U8 => u8::deserialize(d).map(|number| Value::Number(number.into())),
            Schema::I64 => i64::deserialize(d).map(Value::Number),
            Schema::Bool => bool::deserialize(d).map(Value::Bool),
            Schema::Text => String::deserialize(d).map(Value::Text),
            Schema::Unit => <()>::deserialize(d).map(|()| Value::Unit),
            Schema::Option(_) => d.deserialize_option(self),
            Schema::Seq(_) => d.deserialize_seq(self),
            Schema::Tuple(schemas) => d.deserialize_tuple(schemas.len(), self),
            Schema::Struct(fields) => d.deserialize_struct(unique(), names(fields), Fields(fields)),
            Schema::Enum(variants) => {
                let names = leak(variants.iter().map(|(name, _)| *name).collect());
                d.deserialize_enum(unique(), names, self)
            }
        }
    }
}

fn names(fields: &[Field]) -> &'static [&'static str] {
    leak(fields.iter().map(|field| field.name).collect())
}

/// A unique name for each declaration, as if each had a separate type, so none contains itself.
fn unique() -> &'static str {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("Type{}", NEXT.fetch_add(1, Ordering::Relaxed)).leak()
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Option(None))
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        let Schema::Option(schema) = self.0 else { return Err(D::Error::custom("some")) };
        let value = Reading(schema).deserialize(d)?;
        Ok(Value::Option(Some(Box::new(value))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        match self.0 {
            Schema::Seq(schema) => {
                while let Some(value) = seq.next_element_seed(Reading(schema))? {
                    values.push(value);
                }
            }
            Schema::Tuple(schemas) => {
                for schema in schemas {
                    let value = seq.next_element_seed(Reading(schema))?;
                    values.push(value.ok_or_else(|| A::Error::custom("too short"))?);
                }
            }
            _ => return Err(A::Error::custom("seq")),
        }
        Ok(Value::Seq(values))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        let (name, content) = access.variant::<String>()?;
        let Schema::Enum(variants) = self.0 else { return Err(A::Error::custom("enum")) };
        let variant = variants.iter().find(|(known, _)| *known == name);
        let (name, fields) = variant.ok_or_else(|| A::Error::custom("unknown variant"))?;
        if fields.is_empty() {
            content.unit_variant()?;
            return Ok(Value::Variant(name, Vec::new()));
        }
        match content.struct_variant(names(fields), Fields(fields))? {
            Value::Struct(values) => Ok(Value::Variant(name, values)),
            _ => Err(A::Error::custom("fields")),
        }
    }
}

struct Fields<'s>(&'s [Field]);

impl Fields<'_> {
    fn missing<E: Error>(field: &Field) -> Result<Value, E> {
        match field.schema {
            _ if field.default => Ok(Value::Default),
            Schema::Option(_) => Ok(Value::Option(None)),
            _ => Err(E::missing_field(field.name)),
        }
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields")
    }

    /// Reads by position. As in derived code, only marked fields may be missing.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        for field in self.0 {
            let value = match seq.next_element_seed(Reading(&field.schema))? {
                Some(value) => value,
                None if field.default => Value::Default,
                None => return Err(A::Error::custom("too short")),
            };
            values.push((field.name, value));
        }
        Ok(Value::Struct(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            match self.0.iter().find(|field| field.name == name) {
                Some(field) => {
                    found.push((field.name, map.next_value_seed(Reading(&field.schema))?));
                }
                None => drop(map.next_value::<serde::de::IgnoredAny>()?),
            }
        }
        let values = self.0.iter().map(|field| {
            let known = found.iter().find(|(name, _)| *name == field.name);
            let value = known.map_or_else(|| Self::missing(field), |(_, value)| Ok(value.clone()));
            value.map(|value| (field.name, value))
        });
        values.collect::<Result<_, _>>().map(Value::Struct)
    }
}

// ---- random schemas, edits and values ---------------------------------------------------------

fn fields(schema: impl Strategy<Value = Schema> + Clone) -> impl Strategy<Value = Vec<Field>> {
    let some = proptest::sample::subsequence(NAMES.to_vec(), 0..4).prop_shuffle();
    some.prop_flat_map(move |names| {
        let count = names.len();
        let schemas = prop::collection::vec((schema.clone(), any::<bool>()), count);
        (Just(names), schemas).prop_map(|(names, schemas)| {
            let fields = names.into_iter().zip(schemas);
            fields.map(|(name, (schema, default))| Field { name, default, schema }).collect()
        })
    })
}

fn schema() -> impl Strategy<Value = Schema> {
    let leaf = prop_oneof![
        Just(Schema::U8),
        Just(Schema::I64),
        Just(Schema::Bool),
        Just(Schema::Text),
        Just(Schema::Unit),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let inner = inner.boxed();
        let variants = proptest::sample::subsequence(NAMES.to_vec(), 1..4).prop_shuffle();
        let contents = fields(inner.clone());
        prop_oneof![
            1 => inner.clone().prop_map(|schema| Schema::Option(Box::new(schema))),
            1 => inner.clone().prop_map(|schema| Schema::Seq(Box::new(schema))),
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Schema::Tuple),
            3 => fields(inner.clone()).prop_map(Schema::Struct),
            2 => (variants, prop::collection::vec(contents, 3))
                .prop_map(|(names, contents)| Schema::Enum(names.into_iter().zip(contents).collect())),
        ]
    })
}

/// Applies one change to a declaration somewhere in the type.
fn edit(schema: &mut Schema, mut choice: usize, new: &Schema) {
    let mut next = |below: usize| {
        let chosen = choice % below.max(1);
        choice /= below.max(1);
        chosen
    };
    // Change a part, or this declaration.
    let down = next(3) > 0;
    let rest = next(1 << 16);
    match schema {
        Schema::Option(inner) | Schema::Seq(inner) if down => edit(inner, rest, new),
        Schema::Tuple(parts) if down && !parts.is_empty() => {
            let at = rest % parts.len();
            edit(&mut parts[at], rest / 3, new);
        }
        Schema::Struct(fields) => edit_fields(fields, down, rest, new),
        Schema::Enum(variants) => match (down, rest % 3) {
            (true, _) => {
                let at = rest % variants.len();
                edit_fields(&mut variants[at].1, rest.is_multiple_of(2), rest / 3, new);
            }
            (false, 0) => variants.reverse(),
            (false, 1) if variants.len() > 1 => drop(variants.pop()),
            (false, _) => {
                let name = NAMES[rest % NAMES.len()];
                if variants.iter().all(|(known, _)| *known != name) {
                    variants.insert(0, (name, Vec::new()));
                }
            }
        },
        schema => *schema = new.clone(),
    }
}

fn edit_fields(fields: &mut Vec<Field>, down: bool, choice: usize, new: &Schema) {
    let (at, name) = (choice % fields.len().max(1), NAMES[choice / 7 % NAMES.len()]);
    let is_free = fields.iter().all(|field| field.name != name);
    match choice / 42 % 5 {
        _ if down && !fields.is_empty() => edit(&mut fields[at].schema, choice / 5, new),
        0 if is_free => {
            fields
                .insert(at, Field { name, default: choice.is_multiple_of(2), schema: new.clone() });
        }
        1 if !fields.is_empty() => drop(fields.remove(at)),
        2 if !fields.is_empty() && is_free => fields[at].name = name,
        3 if !fields.is_empty() => fields[at].schema = new.clone(),
        _ => fields.reverse(),
    }
}

/// A value of the type whose parts are as different as possible.
fn value(schema: &Schema, seed: &mut u64) -> Value {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let random = (*seed >> 33) as usize;
    let mut all = |fields: &[Field]| -> Vec<_> {
        fields.iter().map(|field| (field.name, value(&field.schema, seed))).collect()
    };
    match schema {
        Schema::U8 => Value::Number((random % 256) as i64),
        Schema::I64 => Value::Number(random as i64 - (1 << 20)),
        Schema::Bool => Value::Bool(random.is_multiple_of(2)),
        Schema::Text => Value::Text(format!("text {random}")),
        Schema::Unit => Value::Unit,
        // `Some` of a nil value reads as `None` in any form.
        Schema::Option(inner) if random.is_multiple_of(2) || is_nil(inner) => Value::Option(None),
        Schema::Option(inner) => Value::Option(Some(Box::new(value(inner, seed)))),
        Schema::Seq(inner) => Value::Seq((0..random % 3).map(|_| value(inner, seed)).collect()),
        Schema::Tuple(parts) => Value::Seq(parts.iter().map(|part| value(part, seed)).collect()),
        Schema::Struct(fields) => Value::Struct(all(fields)),
        Schema::Enum(variants) => {
            let (name, fields) = &variants[random % variants.len()];
            Value::Variant(name, all(fields))
        }
    }
}

fn is_nil(schema: &Schema) -> bool {
    matches!(schema, Schema::Unit | Schema::Option(_))
}

/// The fingerprint at an end of this version; 0 if it has none.
fn fingerprint(schema: &Schema) -> u64 {
    VERSION.set(schema.clone());
    of::<Dynamic>().map_or(0, |shape| shape.fingerprint())
}

/// The value that an end of version `new` reads in this form; `None` for an error.
fn read(written: &Dynamic, form: Form, new: &Schema) -> Option<Value> {
    let mut bytes = Vec::new();
    encode(written, form, &mut bytes).unwrap();
    VERSION.set(new.clone());
    decode::<Dynamic>(&bytes).ok().map(|Dynamic(_, value)| value)
}

fn versions() -> impl Strategy<Value = (Schema, Schema, u64)> {
    let edits = prop::collection::vec((any::<usize>(), schema()), 0..3);
    (schema(), edits, any::<u64>()).prop_map(|(old, edits, seed)| {
        let mut new = old.clone();
        edits.iter().for_each(|(choice, schema)| edit(&mut new, *choice, schema));
        (old, new, seed)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn two_versions_never_misread_each_other((old, new, mut seed) in versions()) {
        let written = Dynamic(old.clone(), value(&old, &mut seed));
        let (ours, theirs) = (fingerprint(&old), fingerprint(&new));
        let form = if ours == theirs && ours != 0 { Form::Compact } else { Form::Named };
        let by_name = read(&written, Form::Named, &new);
        prop_assert_eq!(read(&written, form, &new), by_name, "{:?}", form);
    }

    #[test]
    fn equal_versions_have_equal_fingerprints_and_read_what_was_written((old, _, mut seed) in versions()) {
        let written = Dynamic(old.clone(), value(&old, &mut seed));
        prop_assert_ne!(fingerprint(&old), 0, "{:?}", old);
        prop_assert_eq!(fingerprint(&old), fingerprint(&old.clone()));
        prop_assert_eq!(read(&written, Form::Compact, &old), Some(written.1));
    }
}

/// Shows that the property depends on the comparison of fingerprints.
#[test]
fn without_the_rule_versions_do_misread_each_other() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let misread = (0..2_000).filter(|_| {
        let (old, new, mut seed) = versions().new_tree(&mut runner).unwrap().current();
        let written = Dynamic(old.clone(), value(&old, &mut seed));
        let compact = read(&written, Form::Compact, &new);
        compact.is_some() && compact != read(&written, Form::Named, &new)
    });
    assert!(misread.count() > 20);
}
