//! [`Watch`]: holds a run against what the verifier claimed, instruction by instruction.

use bpf::object::Subprog;
use bpf::verifier::{Claim, Claims, PointerClaim, ScalarClaim, SlotClaim, StateClaim, Target};
use bpf::vm::{Observer, RegionKind, Run, Step};

/// How much was compared.
#[derive(Clone, Debug, Default)]
pub(super) struct Compared {
    pub(super) steps: u64,
    /// Numbers whose range or bits said something, constants not counted.
    pub(super) ranges: u64,
    pub(super) constants: u64,
    pub(super) pointers: u64,
    pub(super) packet_ranges: u64,
    pub(super) slots: u64,
    pub(super) links: u64,
    /// Steps for which more than one state had been remembered.
    pub(super) choices: u64,
}

/// A frame of the running program.
struct Frame {
    /// Instruction that runs, or the call that is being made.
    insn: u32,
    fp: u64,
}

/// See the module.
pub(super) struct Watch<'a> {
    claims: &'a Claims,
    functions: &'a [Subprog],
    frames: Vec<Frame>,
    pub(super) compared: Compared,
    /// The first step outside of all claims.
    pub(super) problem: Option<String>,
    /// Opcodes that ran.
    pub(super) opcodes: Box<[bool; 256]>,
    pub(super) deepest: usize,
}

impl<'a> Watch<'a> {
    pub(super) fn new(claims: &'a Claims, functions: &'a [Subprog]) -> Self {
        Self {
            claims,
            functions,
            frames: Vec::new(),
            compared: Compared::default(),
            problem: None,
            opcodes: Box::new([false; 256]),
            deepest: 0,
        }
    }

    fn function(&self, insn: u32) -> &'a Subprog {
        let at = self.functions.partition_point(|f| f.start <= insn);
        &self.functions[at.saturating_sub(1)]
    }
}

impl Observer for Watch<'_> {
    fn step(&mut self, run: &Run<'_, '_>, step: &Step<'_>) {
        self.frames.truncate(step.depth - 1);
        self.frames.push(Frame { insn: step.insn, fp: step.regs[10] });
        self.deepest = self.deepest.max(step.depth);
        self.opcodes[usize::from(step.program.insns()[step.insn as usize].code)] = true;
        if self.problem.is_some() {
            return;
        }
        // A global function was verified by itself, whoever calls it.
        let base =
            (0..self.frames.len()).rev().find(|i| *i == 0 || self.function(self.frames[*i].insn).is_global);
        let base = base.unwrap_or(0);
        let root = self.function(self.frames[base].insn).start;
        let calls = &self.frames[base..self.frames.len() - 1];
        let states = self.claims.at(step.insn);
        let here = states.iter().filter(|s| {
            s.root == root
                && s.callsites.len() == calls.len()
                && s.callsites.iter().zip(calls).all(|(a, b)| *a == b.insn)
        });
        let (mut seen, mut last) = (0, None);
        for state in here {
            seen += 1;
            let mut look = Look::new(run, step, &self.frames[base..], false);
            if look.state(state).is_ok() {
                self.compared.add(&look.compared);
                self.compared.choices += u64::from(seen > 1);
                return;
            }
            last = Some(state);
        }
        // Only now words are worth their cost: most steps pass by some states before they find theirs.
        let mut look = Look::new(run, step, &self.frames[base..], true);
        let why = last.and_then(|state| look.state(state).err()).unwrap_or_default();
        let at = step.insn;
        self.problem = Some(format!("insn {at}: none of {seen} states remembered admits the run: {why}"));
    }
}

impl Compared {
    pub(super) fn add(&mut self, b: &Self) {
        self.steps += b.steps;
        self.ranges += b.ranges;
        self.constants += b.constants;
        self.pointers += b.pointers;
        self.packet_ranges += b.packet_ranges;
        self.slots += b.slots;
        self.links += b.links;
        self.choices += b.choices;
    }
}

/// One comparison of a step with a state.
struct Look<'a, 'r, 'q> {
    run: &'a Run<'r, 'q>,
    step: &'a Step<'a>,
    /// From the function that was verified on.
    frames: &'a [Frame],
    /// Say what does not fit, not only that something does not.
    words: bool,
    compared: Compared,
}

/// A value that others share an id with.
struct Link {
    id: u32,
    value: u64,
    delta: u64,
    /// Only the low half takes part.
    half: bool,
    pointer: bool,
}

impl<'a, 'r, 'q> Look<'a, 'r, 'q> {
    fn new(run: &'a Run<'r, 'q>, step: &'a Step<'a>, frames: &'a [Frame], words: bool) -> Self {
        Self { run, step, frames, words, compared: Compared::default() }
    }

    /// What does not fit, in words if those are wanted.
    fn say(&self, why: impl FnOnce() -> String) -> String {
        if self.words { why() } else { String::new() }
    }

    fn no<T>(&self, why: impl FnOnce() -> String) -> Result<T, String> {
        Err(self.say(why))
    }

    fn state(&mut self, s: &StateClaim) -> Result<(), String> {
        self.compared.steps += 1;
        let mut links = Vec::new();
        for (r, claim) in s.regs.iter().enumerate() {
            let v = self.step.regs[r];
            if let Err(e) = self.value(claim, v, 8, &mut links) {
                return self.no(|| format!("r{r} = {v:#x} {e}"));
            }
        }
        for (frame, slots) in s.stacks.iter().enumerate() {
            for (i, slot) in slots.iter().enumerate() {
                if let Err(e) = self.slot(frame, i, slot, &mut links) {
                    return self.no(|| format!("frame {frame}, fp-{}: {e}", 8 * (i + 1)));
                }
            }
        }
        for (i, a) in links.iter().enumerate() {
            for b in &links[i + 1..] {
                if a.id != b.id || a.pointer != b.pointer {
                    continue;
                }
                self.compared.links += 1;
                let mask = if a.half || b.half { u64::from(u32::MAX) } else { u64::MAX };
                if a.value.wrapping_sub(a.delta) & mask != b.value.wrapping_sub(b.delta) & mask {
                    return self
                        .no(|| format!("id {}: {:#x} and {:#x} are not linked", a.id, a.value, b.value));
                }
            }
        }
        Ok(())
    }

    fn slot(
        &mut self,
        frame: usize,
        i: usize,
        slot: &SlotClaim,
        links: &mut Vec<Link>,
    ) -> Result<(), String> {
        if slot.zero == 0 && matches!(slot.spilled, None | Some((Claim::Any, _))) {
            return Ok(());
        }
        self.compared.slots += 1;
        let addr = self.frames[frame].fp.wrapping_sub(8 * (i as u64 + 1));
        let bytes = self.run.read(addr, 8).map_err(|e| e.to_string())?;
        let v = bytes.read_u64(0);
        for byte in (0..8).filter(|b| slot.zero & (1 << b) != 0) {
            if v >> (8 * byte) & 0xff != 0 {
                return self.no(|| format!("byte {byte} of {v:#x} is not zero"));
            }
        }
        let Some((claim, size)) = slot.spilled else { return Ok(()) };
        let v = if size < 8 {
            // The state keeps the whole register; what was stored are its low bytes.
            let low = (1 << (8 * size)) - 1;
            match claim {
                Claim::Number { range, .. } if range.unsigned.1 > low => {
                    let known = low & !range.bits.mask;
                    let same = v & known == range.bits.value & known;
                    return if same {
                        Ok(())
                    } else {
                        self.no(|| format!("{v:#x} is not the low part of {range:?}"))
                    };
                }
                _ => v & low,
            }
        } else {
            v
        };
        self.value(&claim, v, size, links).map_err(|e| self.say(|| format!("{v:#x} {e}")))
    }

    fn value(&mut self, claim: &Claim, v: u64, size: u8, links: &mut Vec<Link>) -> Result<(), String> {
        match claim {
            Claim::Any => Ok(()),
            Claim::Number { range, id, delta, delta32 } => {
                if !range.contains(v) {
                    return self.no(|| format!("is not in {range:?}"));
                }
                if range.bits.is_const() {
                    self.compared.constants += 1;
                } else if range.bits.mask != u64::MAX || range.unsigned != (0, u64::MAX) {
                    self.compared.ranges += 1;
                }
                if *id != 0 && size == 8 {
                    let delta = *delta as i64 as u64;
                    links.push(Link { id: *id, value: v, delta, half: *delta32, pointer: false });
                }
                Ok(())
            }
            Claim::Pointer(p) => self.pointer(p, v, links),
        }
    }

    fn pointer(&mut self, p: &PointerClaim, v: u64, links: &mut Vec<Link>) -> Result<(), String> {
        if p.nullable && v == 0 {
            return Ok(());
        }
        self.compared.pointers += 1;
        let bounds = self.run.memory.packet_bounds();
        let off = p.off as i64 as u64;
        let var = |origin: u64| v.wrapping_sub(origin).wrapping_sub(off);
        match p.target {
            Target::Packet | Target::PacketMeta => {
                let (origin, end) = match p.target {
                    Target::Packet => (bounds.data, bounds.end),
                    _ => (bounds.meta, bounds.data),
                };
                self.offset(&p.var, var(origin))?;
                if p.id != 0 {
                    links.push(Link { id: p.id, value: v, delta: off, half: false, pointer: true });
                }
                // What comparisons have shown of the pointer itself: at the end or beyond, beyond.
                if p.range < 0 && (v.wrapping_sub(bounds.end) as i64) < -1 - i64::from(p.range) {
                    return self.no(|| format!("is before the end, {:#x}", bounds.end));
                }
                if p.range > 0 {
                    self.compared.packet_ranges += 1;
                    let last = v.wrapping_sub(off).wrapping_add(p.range as u64);
                    if last.wrapping_sub(end) as i64 > 0 {
                        return self
                            .no(|| format!("claims {} bytes up to {last:#x}, the end is {end:#x}", p.range));
                    }
                }
                Ok(())
            }
            Target::PacketEnd if v != bounds.end => self.no(|| format!("is not the end, {:#x}", bounds.end)),
            Target::PacketEnd | Target::Opaque => Ok(()),
            Target::Ctx => self.offset(&p.var, var(self.run.memory.ctx())),
            Target::Stack(frame) => {
                let fp = self.frames.get(frame as usize).ok_or("points into a frame that is not there")?.fp;
                self.offset(&p.var, var(fp))
            }
            Target::MapValue(map) | Target::Map(map) | Target::MapKey(map) => self.map_pointer(p, map, v),
            Target::Mem(_) => match self.run.memory.describe(v) {
                Some((RegionKind::RingbufRecord(_), at)) => {
                    self.offset(&p.var, (at as u64).wrapping_sub(off))
                }
                Some(_) => Ok(()),
                None => Err("is no pointer".to_owned()),
            },
        }
    }

    fn map_pointer(&mut self, p: &PointerClaim, map: u32, v: u64) -> Result<(), String> {
        let Some((kind, at)) = self.run.memory.describe(v) else { return Err("is no pointer".to_owned()) };
        let id = self.step.program.maps().get(map as usize).map(|m| m.id());
        let found = match (p.target, kind) {
            (Target::MapValue(_), RegionKind::MapValue(id))
            | (Target::Map(_), RegionKind::Map(id))
            | (Target::MapKey(_), RegionKind::MapKey(id)) => Some(id),
            _ => None,
        };
        if found.is_none() || found != id {
            return self.no(|| format!("points to {kind}, not to {:?}", p.target));
        }
        self.offset(&p.var, (at as u64).wrapping_sub(p.off as i64 as u64))
    }

    /// The variable part of a pointer's offset.
    fn offset(&self, claim: &ScalarClaim, var: u64) -> Result<(), String> {
        if claim.contains(var) {
            Ok(())
        } else {
            self.no(|| format!("has variable offset {var:#x}, not in {claim:?}"))
        }
    }
}
