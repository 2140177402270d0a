//! [`Subject`]: what a proof is about, so that it cannot be used for anything else.

use std::sync::Arc;

use uapi::bpf::{BPF_F_RDONLY_PROG, BPF_F_XDP_HAS_FRAGS};

use super::env::Env;
use super::input::{Input, MapDef, created_flags};
use crate::insn::Insn;
use crate::maps::{self, Map};
use crate::object::ProgramSpec;

/// A copy of everything that a verdict depends on.
#[derive(Debug)]
pub(super) struct Subject {
    insns: Box<[Insn]>,
    kfuncs: Box<[String]>,
    ksyms: Box<[String]>,
    attach_type: u32,
    frags: bool,
    maps: Box<[MapSubject]>,
}

#[derive(Debug)]
struct MapSubject {
    def: MapDef,
    /// Offset and size of each special field.
    fields: Vec<(u32, u32)>,
}

impl Subject {
    pub(super) fn new(input: &Input<'_>, env: &Env<'_>) -> Self {
        let map = |(i, def): (usize, &MapDef)| {
            let record = env.maps[i].record.as_ref();
            let mut fields: Vec<_> =
                record.map_or(&[][..], |r| &r.fields).iter().map(|f| (f.offset, f.size)).collect();
            fields.sort_unstable();
            MapSubject { def: def.clone(), fields }
        };
        Self {
            insns: input.insns.into(),
            kfuncs: input.kfuncs.iter().map(|k| k.name.clone()).collect(),
            ksyms: input.ksyms.iter().map(|k| k.name.clone()).collect(),
            attach_type: input.attach_type,
            frags: input.prog_flags & BPF_F_XDP_HAS_FRAGS != 0,
            maps: input.maps.iter().enumerate().map(map).collect(),
        }
    }

    /// Whether the proof holds for this program with these maps; else what is different.
    pub(super) fn covers(&self, spec: &ProgramSpec, maps: &[Arc<Map>]) -> Result<(), String> {
        let same_program = *self.insns == *spec.insns
            && self.kfuncs.iter().eq(spec.kfuncs.iter().map(|k| &k.name))
            && self.ksyms.iter().eq(spec.ksyms.iter().map(|k| &k.name))
            && (self.attach_type, self.frags) == (spec.attach_type.raw(), spec.frags);
        if !same_program {
            return Err("another program has been verified".to_owned());
        }
        if self.maps.len() != maps.len() {
            return Err(format!("verified with {} maps, linked with {}", self.maps.len(), maps.len()));
        }
        for (subject, map) in self.maps.iter().zip(maps) {
            subject.covers(map).map_err(|what| format!("map {:?}: {what}", subject.def.name))?;
        }
        Ok(())
    }
}

impl MapSubject {
    fn covers(&self, map: &Map) -> Result<(), String> {
        same_def(&self.def, map.def())?;
        let mut fields: Vec<_> = map.def().fields.iter().map(|f| (f.offset, f.kind.size())).collect();
        fields.sort_unstable();
        if fields != self.fields {
            return Err(format!("verified with the special fields {:?}, it has {fields:?}", self.fields));
        }
        let constant = self.def.frozen && self.def.flags & BPF_F_RDONLY_PROG != 0;
        match self.def.contents.as_ref().filter(|_| constant) {
            Some(contents) if !map.is_frozen() || !has_value(map, contents) => {
                Err("verified as a constant, it has other contents or can change".to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn has_value(map: &Map, contents: &[u8]) -> bool {
    let guard = mem::epoch::pin();
    map.lookup(&guard, 0, &[0; 4]).is_some_and(|value| value.to_vec() == contents)
}

/// Whether a map is of the shape that was verified. Sizes that the object leaves to the loader are free.
fn same_def(verified: &MapDef, def: &maps::MapDef) -> Result<(), String> {
    let same = (verified.map_type, verified.key_size, verified.value_size)
        == (def.map_type, def.key_size, def.value_size)
        && (verified.max_entries == 0 || verified.max_entries == def.max_entries)
        && verified.flags == created_flags(def.map_type, def.map_flags);
    match (same, &verified.inner, &def.inner) {
        (false, ..) => Err("verified with other sizes or flags".to_owned()),
        (true, None, None) => Ok(()),
        (true, Some(verified), Some(def)) => same_def(verified, def),
        _ => Err("verified with another template of inner maps".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::MapContext;
    use crate::verifier::{Options, Verified, verify};
    use uapi::bpf::MapType;

    fn proof(spec: &ProgramSpec, maps: &[MapDef]) -> Verified {
        let input = Input::of_program(spec, maps, "GPL", None, None);
        verify(&input, &Options::default()).expect("accepted")
    }

    fn array(entries: u32) -> MapDef {
        MapDef {
            name: "a".to_owned(),
            map_type: MapType::Array,
            key_size: 4,
            value_size: 8,
            max_entries: entries,
            flags: 0,
            value_type: None,
            has_btf: false,
            inner: None,
            frozen: false,
            contents: None,
        }
    }

    fn created(entries: u32) -> Arc<Map> {
        Map::create(maps::MapDef::new(MapType::Array, 4, 8, entries), &MapContext::default())
            .expect("created")
    }

    #[test]
    fn a_proof_is_good_for_its_own_program_and_maps_alone() {
        let program =
            |ret| ProgramSpec::bare("p", vec![Insn::new(0xb7, 0, 0, 0, ret), Insn::new(0x95, 0, 0, 0, 0)]);
        let proof = proof(&program(2), &[array(4)]);
        assert_eq!(proof.covers(&program(2), &[created(4)]), Ok(()));
        assert_eq!(
            proof.covers(&program(1), &[created(4)]).unwrap_err(),
            "another program has been verified"
        );
        assert!(proof.covers(&program(2), &[]).unwrap_err().contains("linked with 0"));
        assert!(proof.covers(&program(2), &[created(5)]).unwrap_err().contains("other sizes or flags"));
        let mut frags = program(2);
        frags.frags = true;
        assert!(proof.covers(&frags, &[created(4)]).is_err());
    }
}
