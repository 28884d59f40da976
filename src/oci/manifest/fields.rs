//! The fields of a manifest that mean something here, read without a tree of all the others: a body of 4 MiB costs no
//! more than the descriptors it names.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::media_type::{
    DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, ManifestShape, OCI_INDEX, OCI_MANIFEST, OwnType,
    is_of_no_manifest,
};
use crate::oci::digest::Digest;

/// A reference to content: OCI image-spec, descriptor.md.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes, or 0 where the manifest does not say (Docker's schema 1 never
    /// does).
    pub size: u64,
    /// Whether it has `urls` and so need not be in the registry that has the manifest.
    pub elsewhere: bool,
    /// Of an index's `manifests`: whether its media type says that it is none. It is a blob then, to clients as well;
    /// BuildKit's caches list their layers so.
    pub is_blob: bool,
}

/// What the bytes alone look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Looks {
    /// It has the version or the type of a manifest, and a member that manifests have.
    LikeAManifest,
    /// It has `errors`, as the answers of registries have that are none.
    LikeAnError,
    /// A manifest of a kind to come, or other JSON.
    #[default]
    LikeNeither,
}

/// A manifest with more descriptors than this names none. An image has hundreds at most, an index some thousand.
const MOST: usize = 20_000;

/// The fields that are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    Config,
    Layers,
    FsLayers,
    Blobs,
    Manifests,
    MediaType,
    Signatures,
    SchemaVersion,
    Errors,
}

const FIELDS: [(&str, Field); 9] = [
    ("config", Field::Config),
    ("layers", Field::Layers),
    ("fsLayers", Field::FsLayers),
    ("blobs", Field::Blobs),
    ("manifests", Field::Manifests),
    ("mediaType", Field::MediaType),
    ("signatures", Field::Signatures),
    ("schemaVersion", Field::SchemaVersion),
    ("errors", Field::Errors),
];

/// The fields of a descriptor. `blobSum` is that of schema 1 (docker/distribution, manifest-v2-1.md), without a size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Detail {
    Digest,
    BlobSum,
    Size,
    Urls,
    MediaType,
}

const DETAILS: [(&str, Detail); 5] = [
    ("digest", Detail::Digest),
    ("blobSum", Detail::BlobSum),
    ("size", Detail::Size),
    ("urls", Detail::Urls),
    ("mediaType", Detail::MediaType),
];

/// What was read.
#[derive(Default)]
pub(super) struct Fields {
    named: [Vec<Descriptor>; 5],
    count: usize,
    present: [bool; FIELDS.len()],
    media_type: Option<String>,
    schema_version: Option<u64>,
    /// Readers disagree on what it says, so nothing of it is believed: a known key stands there twice, or spelt in
    /// another case. Registries are written in Go, which takes keys in any case and lets the last one win: they would
    /// check another list than the one that is read here.
    opaque: bool,
}

impl Fields {
    /// What the bytes say of their type.
    pub(super) fn own_type(&self) -> Option<OwnType> {
        if self.opaque {
            return None;
        }
        let written = self.media_type.as_deref().and_then(OwnType::written);
        written.or_else(|| self.shape().map(OwnType::Shape))
    }

    /// Whether this is a manifest, if no digest says so: any JSON can stand where a manifest should be, such as the
    /// error of a gateway.
    pub(super) fn looks(&self) -> Looks {
        let has = |field: Field| self.present[field as usize];
        let members = [
            Field::Config,
            Field::Layers,
            Field::FsLayers,
            Field::Blobs,
            Field::Manifests,
        ];
        let names_a_kind = || {
            let written = self.media_type.as_deref().map(ManifestShape::of);
            written.is_some_and(|shape| shape != ManifestShape::Other)
        };
        let versioned = matches!(self.schema_version, Some(1 | 2));
        match members.into_iter().any(has) && (versioned || names_a_kind()) {
            _ if has(Field::Errors) => Looks::LikeAnError,
            true => Looks::LikeAManifest,
            false => Looks::LikeNeither,
        }
    }

    /// OCI manifests may leave `mediaType` out, and are then told apart by what they hold. What has the fields of several
    /// kinds is none: clients do not agree on what it is (CVE-2021-41190).
    fn shape(&self) -> Option<&'static str> {
        let has = |field: Field| self.present[field as usize];
        let (config, layers) = (has(Field::Config), has(Field::Layers));
        match (config, layers, has(Field::Manifests), has(Field::FsLayers)) {
            (false, false, true, false) => Some(OCI_INDEX),
            (true, true, false, false) => Some(OCI_MANIFEST),
            (false, false, false, true) if has(Field::Signatures) => Some(DOCKER_SCHEMA1_SIGNED),
            (false, false, false, true) => Some(DOCKER_SCHEMA1),
            _ => None,
        }
    }

    /// What it names in `field`.
    pub(super) fn take(&mut self, field: Field) -> Vec<Descriptor> {
        match self.named.get_mut(field as usize) {
            Some(named) if !self.opaque && self.count <= MOST => std::mem::take(named),
            _ => Vec::new(),
        }
    }

    fn add(&mut self, field: Field, descriptor: Descriptor) {
        self.count += 1;
        if self.count <= MOST
            && let Some(named) = self.named.get_mut(field as usize)
        {
            named.push(descriptor);
        }
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a manifest")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key_seed(KeyOf(&FIELDS))? {
                    let Some(SpeltKey { field, exact }) = key else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let present = &mut fields.present[field as usize];
                    let decides = !matches!(field, Field::SchemaVersion | Field::Errors);
                    fields.opaque |= decides && (*present || !exact);
                    *present = true;
                    match field {
                        Field::SchemaVersion => {
                            fields.schema_version = map.next_value::<Scalar<'_>>()?.number();
                        }
                        Field::Signatures | Field::Errors => {
                            map.next_value::<IgnoredAny>()?;
                        }
                        Field::MediaType => {
                            let value: Scalar<'_> = map.next_value()?;
                            fields.media_type = value.text().map(Cow::into_owned);
                        }
                        field => map.next_value_seed(Named {
                            fields: &mut fields,
                            field,
                            inside: field == Field::Config,
                        })?,
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A key, and whether it is spelt as it should be.
struct SpeltKey<T> {
    field: T,
    exact: bool,
}

/// Reads a key as one of a table.
struct KeyOf<'t, T>(&'t [(&'static str, T)]);

impl<'de, T: Copy> DeserializeSeed<'de> for KeyOf<'_, T> {
    type Value = Option<SpeltKey<T>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T: Copy> Visitor<'_> for KeyOf<'_, T> {
    type Value = Option<SpeltKey<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let mut like = self.0.iter().filter(|(name, _)| is_like(text, name));
        Ok(like.next().map(|(name, field)| SpeltKey {
            field: *field,
            exact: text == *name,
        }))
    }
}

/// Whether Go takes `text` for the key `name`: in any case, and with the two letters beyond ASCII that fold into it
/// (encoding/json, `foldName`).
fn is_like(text: &str, name: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    text.len() >= name.len() && text.chars().map(fold).eq(name.chars().map(fold))
}

/// Adds to `fields` what is named in one field: a list of descriptors, or, `inside`, one descriptor.
struct Named<'f> {
    fields: &'f mut Fields,
    field: Field,
    inside: bool,
}

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! pass_over {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        })*
    };
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("descriptors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.inside {
            return IgnoredAny.visit_seq(list).map(drop);
        }
        while let Some(()) = list.next_element_seed(Named {
            fields: &mut *self.fields,
            field: self.field,
            inside: true,
        })? {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if !self.inside {
            return IgnoredAny.visit_map(map).map(drop);
        }
        let wanted = match self.field {
            Field::FsLayers => Detail::BlobSum,
            _ => Detail::Digest,
        };
        let (mut digest, mut size, mut elsewhere, mut is_blob) = (None, 0, false, false);
        let mut present = [false; DETAILS.len()];
        while let Some(key) = map.next_key_seed(KeyOf(&DETAILS))? {
            let Some(SpeltKey { field, exact }) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let present = &mut present[field as usize];
            self.fields.opaque |= *present || !exact;
            *present = true;
            match field {
                Detail::Size => size = map.next_value::<Scalar<'_>>()?.number().unwrap_or(0),
                Detail::Urls => {
                    map.next_value::<IgnoredAny>()?;
                    elsewhere = true;
                }
                Detail::MediaType => {
                    let value: Scalar<'_> = map.next_value()?;
                    is_blob = self.field == Field::Manifests
                        && value.text().is_some_and(|name| is_of_no_manifest(&name));
                }
                field if field == wanted => {
                    let value: Scalar<'_> = map.next_value()?;
                    digest = value.text().and_then(|text| text.parse().ok());
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if let Some(digest) = digest {
            let descriptor = Descriptor {
                digest,
                size,
                elsewhere,
                is_blob,
            };
            self.fields.add(self.field, descriptor);
        }
        Ok(())
    }

    pass_over!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A text, a number that counts something, or anything else.
#[derive(Default)]
enum Scalar<'de> {
    Text(Cow<'de, str>),
    Number(u64),
    #[default]
    Other,
}

impl<'de> Scalar<'de> {
    fn text(self) -> Option<Cow<'de, str>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Other => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(_) | Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Scalar<'de>, A::Error> {
                IgnoredAny.visit_seq(list).map(|_| Scalar::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar<'de>, A::Error> {
                IgnoredAny.visit_map(map).map(|_| Scalar::Other)
            }

            pass_over!(visit_bool: bool, visit_i64: i64, visit_f64: f64);

            fn visit_unit<E: Error>(self) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
