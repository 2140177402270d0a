//! Helpers that become part of the program: lookups in arrays, the CPU's number.
//!
//! [`plan`] decides from what the verifier proved, before anything is compiled, so that a function whose
//! calls are all inlined counts as one that calls nothing. [`Compiler::inline_call`] makes the nodes.

use uapi::bpf::func;

use super::asm::{Size, Width};
use super::facts::Class;
use super::node::{Graph, Id, Node, Op};
use super::{Compiler, MapLink, Source, hash};
use crate::maps::{HashLayout, Layout};

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inline {
    /// A value whose address is known; 0 for none.
    Address(u64),
    /// An array's value: at `base + key * stride`, if there is that many.
    Array { base: u64, stride: u64, max_entries: u32 },
    /// This CPU's value of a key that is known: at `base + cpu * cpu_stride`.
    PercpuAt { base: u64, cpu_stride: u64 },
    /// This CPU's value.
    Percpu { base: u64, cpu_stride: u64, stride: u64, max_entries: u32 },
    /// What stands in a slot that is known.
    SlotAt(u64),
    /// What stands in a slot, if there is that many.
    Slot { base: u64, max_entries: u32 },
    /// What a lookup in a hash table or among devices and sockets finds, by a routine.
    Routine { map: u32, key_size: u32, percpu: bool },
    /// The CPU's number.
    Cpu,
}

impl Inline {
    /// Whether the run has to be at hand.
    pub(super) const fn uses_run(self) -> bool {
        matches!(
            self,
            Self::PercpuAt { .. } | Self::Percpu { .. } | Self::Routine { percpu: true, .. } | Self::Cpu
        )
    }

    /// Bytes of the key, if it is read from memory.
    pub(super) const fn key_size(self) -> Option<u32> {
        match self {
            Self::Array { .. } | Self::Percpu { .. } | Self::Slot { .. } => Some(4),
            Self::Routine { key_size, .. } => Some(key_size),
            _ => None,
        }
    }
}

/// What becomes of the call at an instruction; `None` if it stays one.
pub(super) fn plan(source: &Source<'_>, i: u32) -> Option<Inline> {
    let insn = source.insns[i as usize];
    if !insn.is_helper_call() {
        return None;
    }
    match insn.imm {
        func::MAP_LOOKUP_ELEM => {
            let fact = source.facts.insn(i);
            let map = source.maps.get(fact.map? as usize)?;
            match map.layout {
                Layout::Hash(layout) => hash_lookup(fact.map?, &layout, map.key_size),
                Layout::Entries { .. } | Layout::Buckets { .. } => Some(slot_lookup(fact.map?)),
                Layout::Slots { .. } if !map.holds_maps => Some(slot_lookup(fact.map?)),
                _ => lookup(map, fact.key.map(|k| k as u32)),
            }
        }
        func::GET_SMP_PROCESSOR_ID if !source.scripted => Some(Inline::Cpu),
        _ => None,
    }
}

fn lookup(map: &MapLink, key: Option<u32>) -> Option<Inline> {
    let missing = |max_entries| key.is_some_and(|k| k >= max_entries);
    let at = |base: u64, stride: u64, k: u32| base + u64::from(k) * stride;
    Some(match map.layout {
        Layout::Array { max_entries, .. } | Layout::PercpuArray { max_entries, .. }
            if missing(max_entries) =>
        {
            Inline::Address(0)
        }
        Layout::Array { base, stride, max_entries } => match key {
            Some(k) => Inline::Address(at(base, stride, k)),
            None => Inline::Array { base, stride, max_entries },
        },
        Layout::PercpuArray { base, cpu_stride, stride, max_entries } => match key {
            Some(k) => Inline::PercpuAt { base: at(base, stride, k), cpu_stride },
            None => Inline::Percpu { base, cpu_stride, stride, max_entries },
        },
        Layout::Slots { max_entries, .. } if map.holds_maps && missing(max_entries) => Inline::Address(0),
        Layout::Slots { base, max_entries } if map.holds_maps => match key {
            Some(k) => Inline::SlotAt(at(base, 8, k)),
            None => Inline::Slot { base, max_entries },
        },
        _ => return None,
    })
}

fn slot_lookup(map: u32) -> Inline {
    Inline::Routine { map, key_size: 4, percpu: false }
}

fn hash_lookup(map: u32, layout: &HashLayout, key_size: u32) -> Option<Inline> {
    let strides =
        [layout.stride, layout.percpu.map_or(0, |(_, cpu, _)| cpu), layout.percpu.map_or(0, |p| p.2)];
    let fits = strides.iter().all(|s| i32::try_from(*s).is_ok());
    let percpu = layout.percpu.is_some();
    // The register that a key of odd length is put together with holds the element's number then.
    let odd = percpu && !hash::is_word(key_size) && !matches!(key_size % 8, 0 | 1 | 2 | 4);
    (fits && !odd && (1..=hash::MAX_KEY).contains(&key_size)).then_some(Inline::Routine {
        map,
        key_size,
        percpu,
    })
}

impl Compiler<'_> {
    /// The nodes of an inlined call, whose value is R0.
    pub(super) fn inline_call(&mut self, inline: Inline, key: Id) -> Id {
        let pointer = key;
        let key = match inline.key_size() {
            Some(size @ (4 | 8)) => self.load_key(pointer, size),
            _ => Id::UNDEF,
        };
        match inline {
            Inline::Routine { map, key_size, .. } => self.hash_lookup_node(map, key_size, pointer, key),
            Inline::Address(addr) => self.value_address(addr),
            Inline::Array { base, stride, max_entries } => {
                let base = self.value_address(base);
                let g = &mut self.trace.graph;
                let value = g.element(base, key, stride);
                g.select_below(key, max_entries, value)
            }
            Inline::PercpuAt { base, cpu_stride } => {
                let base = self.value_address(base);
                let cpu = self.cpu();
                self.trace.graph.element(base, cpu, cpu_stride)
            }
            Inline::Percpu { base, cpu_stride, stride, max_entries } => {
                let base = self.value_address(base);
                let cpu = self.cpu();
                let g = &mut self.trace.graph;
                let own = g.element(base, cpu, cpu_stride);
                let value = g.element(own, key, stride);
                g.select_below(key, max_entries, value)
            }
            Inline::SlotAt(addr) => {
                let base = self.value_address(addr);
                self.trace.graph.load(Size::D, base, 0, Class::Other)
            }
            Inline::Slot { base, max_entries } => {
                let mut n = Node::new(Op::Slot, Width::W64);
                (n.a, n.imm, n.aux) = (key, base as i64, max_entries);
                self.trace.graph.push(n)
            }
            Inline::Cpu => self.cpu(),
        }
    }

    fn value_address(&mut self, addr: u64) -> Id {
        let id = self.trace.graph.konst(addr);
        self.trace.graph[id].class = Class::Map;
        id
    }

    /// The key of 4 or 8 bytes that a pointer points to.
    fn load_key(&mut self, pointer: Id, size: u32) -> Id {
        let class = self.trace.graph[pointer].class;
        let escapes = self.frame_escapes();
        let t = &mut self.trace;
        let (base, disp) = t.graph.address(pointer, 0);
        t.log.load(&mut t.graph, Size::from_bytes(size as u8), (base, disp, class), escapes)
    }

    fn hash_lookup_node(&mut self, map: u32, key_size: u32, pointer: Id, key: Id) -> Id {
        let mut n = Node::new(Op::HashLookup, Width::W64);
        (n.aux, n.class) = (map, Class::Map);
        let escapes = self.frame_escapes();
        let t = &mut self.trace;
        if hash::is_word(key_size) {
            n.b = key;
        } else {
            let class = t.graph[pointer].class;
            (n.a, n.imm) = t.graph.address(pointer, 0);
            t.log.read_by_call(&mut t.graph, (n.a, n.imm, class), key_size, escapes);
        }
        t.graph.push(n)
    }

    /// The number of the CPU, which is read once in a trace.
    fn cpu(&mut self) -> Id {
        if !self.trace.cpu.is_some() {
            let mut n = Node::new(Op::RunField, Width::W32);
            n.imm = i64::from(self.source.abi.run_cpu);
            self.trace.cpu = self.trace.graph.push(n);
        }
        self.trace.cpu
    }
}

impl Graph {
    /// `base + index * stride`.
    fn element(&mut self, base: Id, index: Id, stride: u64) -> Id {
        let offset = self.bin_imm(Op::Mul, Width::W64, index, stride);
        self.bin(Op::Add, Width::W64, base, offset)
    }

    /// `value` if `key < limit`, else 0.
    fn select_below(&mut self, key: Id, limit: u32, value: Id) -> Id {
        if let Some(k) = self.constant(key) {
            return if k < u64::from(limit) { value } else { self.konst(0) };
        }
        let bits = self.bits(key);
        if bits < 32 && 1 << bits <= limit {
            return value;
        }
        let class = self[value].class;
        let mut n = Node::new(Op::Select, Width::W64);
        (n.a, n.b, n.imm, n.class) = (value, key, i64::from(limit), class);
        self.push(n)
    }
}
