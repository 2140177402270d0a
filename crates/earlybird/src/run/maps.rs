//! Maps of a loaded object by name: filling them, and reading them as JSON.

use bpf::btf::{Btf, Kind, TypeId};
use bpf::maps::MapDef;
use bpf::object::{MapContents, MapSpec, ObjectSpec};
use control::Loaded;
use serde_json::{Map, Value, json};
use uapi::Errno;
use uapi::bpf::MapType;

use crate::values::{Shape, ValueError, decode, encode, parse_text};

/// A key and the value that it shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Map, by name.
    pub map: String,
    /// Key; for data sections the name of a variable.
    pub key: Value,
    /// Value.
    pub value: Value,
}

impl Setting {
    /// Reads `KEY=VALUE` of a command line. A key with `=` in it is written as JSON.
    #[must_use]
    pub fn parse(map: &str, text: &str) -> Option<Self> {
        let split = if text.starts_with('{') { text.find("}=").map(|i| i + 1) } else { text.find('=') }?;
        let (key, value) = (&text[..split], &text[split + 1..]);
        Some(Self { map: map.to_owned(), key: parse_text(key), value: parse_text(value) })
    }

    /// Reads a file of settings: `{"map": {"key": value, ...}}`, or lists of `{"key":..., "value":...}` as
    /// `--dump-maps` writes them.
    ///
    /// # Errors
    ///
    /// [`MapError::File`] with what is wrong.
    pub fn parse_file(json: &Value) -> Result<Vec<Self>, MapError> {
        let wrong = |what: String| MapError::File(what);
        let Some(maps) = json.as_object() else {
            return Err(wrong("a file of maps is an object: {\"map\": {\"key\": value}}".into()));
        };
        let mut settings = Vec::new();
        for (map, entries) in maps {
            let setting = |key: Value, value: Value| Self { map: map.clone(), key, value };
            match entries {
                Value::Object(entries) => {
                    settings.extend(entries.iter().map(|(k, v)| setting(parse_text(k), v.clone())));
                }
                Value::Array(entries) => {
                    for entry in entries {
                        let (Some(key), Some(value)) = (entry.get("key"), entry.get("value")) else {
                            return Err(wrong(format!(
                                "map {map}: {entry} is no {{\"key\":..., \"value\":...}}"
                            )));
                        };
                        settings.push(setting(key.clone(), value.clone()));
                    }
                }
                other => return Err(wrong(format!("map {map}: {other} is neither an object nor a list"))),
            }
        }
        Ok(settings)
    }
}

/// A map cannot be filled or read as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// No map of this name.
    #[error("no map is called {name:?}. There are: {available}")]
    NoSuchMap {
        /// Name that was asked for.
        name: String,
        /// Names there are.
        available: String,
    },
    /// No variable of this name in a data section.
    #[error("no variable is called {0:?} in .data, .bss, .rodata or .kconfig")]
    NoSuchVariable(String),
    /// A key or value of the wrong type.
    #[error("map {map}: {part}: {source}")]
    Value {
        /// Map.
        map: String,
        /// `key` or `value`.
        part: &'static str,
        /// What is wrong.
        source: ValueError,
    },
    /// The map refused.
    #[error("map {map}: {key}: {errno}")]
    Refused {
        /// Map.
        map: String,
        /// Key.
        key: String,
        /// Errno.
        errno: Errno,
    },
    /// A file of maps that is none.
    #[error("{0}")]
    File(String),
}

/// How much of the maps is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DumpMode {
    /// Everything.
    All,
    /// Arrays without the values that are zero.
    Used,
}

/// The maps of an object, with their types.
pub struct MapView<'a> {
    spec: &'a ObjectSpec,
}

/// Entries of a map as bytes, sorted by key.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

impl<'a> MapView<'a> {
    /// Of an object.
    #[must_use]
    pub fn new(spec: &'a ObjectSpec) -> Self {
        Self { spec }
    }

    fn find(&self, name: &str) -> Result<(usize, &'a MapSpec), MapError> {
        let short = |m: &MapSpec| m.name.rsplit_once('.').is_some_and(|(_, end)| name == format!(".{end}"));
        let maps = || self.spec.maps.iter().enumerate();
        let found = maps().find(|(_, m)| m.name == name).or_else(|| maps().find(|(_, m)| short(m)));
        found.ok_or_else(|| MapError::NoSuchMap {
            name: name.to_owned(),
            available: self.spec.maps.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The data section that has a variable.
    ///
    /// # Errors
    ///
    /// [`MapError::NoSuchVariable`].
    pub fn section_of(&self, variable: &str) -> Result<String, MapError> {
        let has = |m: &&MapSpec| {
            let Some((btf, ty)) = self.typed(m.value_type) else { return false };
            let Kind::Datasec { vars, .. } = btf.resolved(ty) else { return false };
            vars.iter().any(|v| btf.name_of(v.ty) == variable)
        };
        let found = self.spec.maps.iter().find(has).map(|m| m.name.clone());
        found.ok_or_else(|| MapError::NoSuchVariable(variable.to_owned()))
    }

    /// Whether a map is a data section; `.bss` has no contents in the file.
    fn is_section(&self, map: &MapSpec) -> bool {
        matches!(map.contents, MapContents::Data(_))
            || self
                .typed(map.value_type)
                .is_some_and(|(btf, ty)| matches!(btf.resolved(ty), Kind::Datasec { .. }))
    }

    fn key_shape(&self, map: &'a MapSpec) -> Shape<'a> {
        Shape { ty: self.typed(map.key_type), size: map.key_size as usize }
    }

    fn value_shape(&self, map: &'a MapSpec) -> Shape<'a> {
        Shape { ty: self.typed(map.value_type), size: map.value_size as usize }
    }

    fn typed(&self, ty: Option<TypeId>) -> Option<(&'a Btf, TypeId)> {
        let btf = self.spec.btf.as_deref()?;
        ty.filter(|t| *t != TypeId::VOID).map(|t| (btf, t))
    }

    /// Changes variables of data sections before loading; answers the settings of other maps.
    ///
    /// # Errors
    ///
    /// [`MapError`] for a name or value that does not fit.
    pub fn set_variables(spec: &mut ObjectSpec, settings: Vec<Setting>) -> Result<Vec<Setting>, MapError> {
        let mut rest = Vec::new();
        for setting in settings {
            let view = MapView::new(spec);
            let (index, map) = view.find(&setting.map)?;
            if !view.is_section(map) {
                rest.push(setting);
                continue;
            }
            let data = match &map.contents {
                MapContents::Data(data) => data.clone(),
                _ => vec![0; map.value_size as usize],
            };
            let changed = set_variable(view.value_shape(map), &data, &setting)
                .map_err(|source| MapError::Value { map: setting.map.clone(), part: "variable", source })?;
            spec.maps[index].contents = MapContents::Data(changed);
        }
        Ok(rest)
    }

    /// Fills maps of a loaded object.
    ///
    /// # Errors
    ///
    /// [`MapError`] for a name or value that does not fit, or that the map refuses.
    pub fn apply(&self, loaded: &dyn Loaded, settings: &[Setting], cpus: u32) -> Result<(), MapError> {
        for setting in settings {
            let (index, map) = self.find(&setting.map)?;
            let typed = |part, source| MapError::Value { map: map.name.clone(), part, source };
            let key = encode(self.key_shape(map), &setting.key).map_err(|e| typed("key", e))?;
            let value =
                self.encode_value(map, &setting.value, cpus as usize).map_err(|e| typed("value", e))?;
            loaded.map_update(index, &key, &value, uapi::bpf::BPF_ANY).map_err(|errno| {
                MapError::Refused { map: map.name.clone(), key: setting.key.to_string(), errno }
            })?;
        }
        Ok(())
    }

    /// One value for all CPUs, or `[{"cpu":0,"value":...}]` or a list with one for each.
    fn encode_value(&self, map: &'a MapSpec, value: &Value, cpus: usize) -> Result<Vec<u8>, ValueError> {
        let shape = self.value_shape(map);
        if !is_percpu(map.map_type) {
            return encode(shape, value);
        }
        let each = |v: &Value| {
            let mut bytes = encode(shape, v.get("value").filter(|_| v.get("cpu").is_some()).unwrap_or(v))?;
            bytes.resize(shape.size.next_multiple_of(8), 0);
            Ok(bytes)
        };
        match value.as_array() {
            Some(values) if values.len() == cpus => {
                Ok(values.iter().map(each).collect::<Result<Vec<_>, _>>()?.concat())
            }
            _ => Ok(each(value)?.repeat(cpus)),
        }
    }

    /// What all maps hold, by name.
    #[must_use]
    pub fn dump(&self, loaded: &dyn Loaded, mode: DumpMode) -> Map<String, Value> {
        let maps = self.spec.maps.iter().zip(loaded.maps()).enumerate();
        maps.map(|(i, (spec, info))| (spec.name.clone(), self.dump_one(loaded, i, spec, &info.def, mode)))
            .collect()
    }

    fn dump_one(
        &self,
        loaded: &dyn Loaded,
        index: usize,
        map: &'a MapSpec,
        def: &MapDef,
        mode: DumpMode,
    ) -> Value {
        if self.is_section(map) {
            let bytes = loaded.map_lookup(index, &0_u32.to_le_bytes());
            return bytes
                .map_or_else(|e| json!({"error": e.to_string()}), |b| decode(self.value_shape(map), &b));
        }
        let Some(entries) = entries(loaded, index, def) else { return json!({"type": def.map_type.name()}) };
        let skip_zero = mode == DumpMode::Used && is_array(def.map_type);
        let used = entries.iter().filter(|(_, v)| !skip_zero || v.iter().any(|b| *b != 0));
        used.map(|(key, value)| self.entry(map, key, value)).collect()
    }

    /// One entry in bpftool's form.
    fn entry(&self, map: &'a MapSpec, key: &[u8], value: &[u8]) -> Value {
        let mut entry = Map::new();
        if !key.is_empty() {
            entry.insert("key".into(), decode(self.key_shape(map), key));
        }
        let shape = self.value_shape(map);
        if is_percpu(map.map_type) {
            let values = value.chunks_exact(shape.size.next_multiple_of(8).max(8)).enumerate();
            let values = values.map(|(cpu, v)| json!({"cpu": cpu, "value": decode(shape, &v[..shape.size])}));
            entry.insert("values".into(), values.collect());
        } else {
            entry.insert("value".into(), decode(shape, value));
        }
        Value::Object(entry)
    }

    /// A key as short text, for differences.
    pub(super) fn key_text(&self, index: usize, key: &[u8]) -> String {
        self.spec.maps.get(index).map_or_else(String::new, |map| decode(self.key_shape(map), key).to_string())
    }

    /// A value as JSON, for differences.
    pub(super) fn value_json(&self, index: usize, value: &[u8]) -> Value {
        let Some(map) = self.spec.maps.get(index) else { return Value::Null };
        if self.is_section(map) || !is_percpu(map.map_type) {
            return decode(self.value_shape(map), value);
        }
        self.entry(map, &[], value)["values"].take()
    }
}

fn set_variable(shape: Shape<'_>, data: &[u8], setting: &Setting) -> Result<Vec<u8>, ValueError> {
    let name = setting.key.as_str().map_or_else(|| setting.key.to_string(), str::to_owned);
    let one: Map<String, Value> = [(name, setting.value.clone())].into_iter().collect();
    let size = Shape { size: data.len(), ..shape };
    let (new, mask) = match shape.ty {
        Some((btf, ty)) => (encode(size, &Value::Object(one.clone()))?, variable_range(btf, ty, &one)),
        None => {
            let wanted = "variable: the object has no BTF for this section".to_owned();
            return Err(ValueError { given: setting.key.to_string(), wanted });
        }
    };
    let mut out = data.to_vec();
    if let Some(range) = mask.filter(|r| r.end <= out.len()) {
        out[range.clone()].copy_from_slice(&new[range]);
    }
    Ok(out)
}

fn variable_range(btf: &Btf, section: TypeId, one: &Map<String, Value>) -> Option<std::ops::Range<usize>> {
    let Kind::Datasec { vars, .. } = btf.resolved(section) else { return None };
    let var = vars.iter().find(|v| one.contains_key(btf.name_of(v.ty)))?;
    Some(var.offset as usize..var.offset as usize + var.size as usize)
}

pub(super) fn is_percpu(t: MapType) -> bool {
    matches!(t, MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash)
}

pub(super) fn is_array(t: MapType) -> bool {
    matches!(t, MapType::Array | MapType::PercpuArray)
}

/// All entries, sorted by key; `None` for types whose contents user space cannot read without taking them.
pub(super) fn entries(loaded: &dyn Loaded, index: usize, def: &MapDef) -> Option<Entries> {
    use MapType::*;
    match def.map_type {
        PerfEventArray | Ringbuf | UserRingbuf | Xskmap | BloomFilter | Sockmap | Sockhash | StackTrace => {
            None
        }
        Queue | Stack => {
            Some(loaded.map_lookup(index, &[]).map(|v| vec![(Vec::new(), v)]).unwrap_or_default())
        }
        _ => {
            let mut all = Entries::new();
            let mut key = loaded.map_next_key(index, None);
            while let Ok(k) = key {
                if let Ok(value) = loaded.map_lookup(index, &k) {
                    all.push((k.clone(), value));
                }
                // A map that changes meanwhile may start over; no map has more entries than it says.
                if all.len() > def.max_entries as usize {
                    break;
                }
                key = loaded.map_next_key(index, Some(&k));
            }
            all.sort();
            Some(all)
        }
    }
}
