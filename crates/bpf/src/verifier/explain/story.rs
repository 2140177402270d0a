//! The story of a register, told backwards along the failing path: where its value came from, where it was
//! bounded, where it was moved, where the bound was lost.

use uapi::bpf::*;

use super::super::env::Env;
use super::super::helpers::helper_name;
use super::super::reg::Reg;
use super::super::types::RegType;
use super::history::History;
use super::words::bytes;
use crate::insn::Insn;

/// Steps back that a story takes at most.
const MAX_HOPS: usize = 96;
/// A bound above this one is none: pointers cannot be moved that far.
pub(super) const NO_BOUND: u64 = 1 << 29;

/// What an instruction did to the value that the story is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The value begins here.
    Origin,
    /// More is known of it from here on.
    Bound,
    /// A pointer was moved by a variable.
    Moved,
    /// Less is known of it from here on.
    Lost,
}

/// One point of a story.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) step: usize,
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// A story, latest event first.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    pub(super) events: Vec<Event>,
    /// The number by which a pointer was last moved: register and step.
    pub(super) index: Option<(u8, usize)>,
    /// The step whose instruction made the value.
    pub(super) origin: Option<usize>,
}

/// What is to be followed after an instruction.
enum Next {
    /// This register, before this step.
    Follow(u8, usize),
    /// The value began here.
    Begin,
}

/// Reads stories out of a path.
pub(super) struct Teller<'a, 'b> {
    pub(super) env: &'a Env<'b>,
    pub(super) history: &'a History,
}

impl Teller<'_, '_> {
    /// The story of a register before a step.
    pub(super) fn story(&self, reg: u8, step: usize) -> Story {
        let mut story = Story::default();
        let (mut reg, mut at) = (reg, step);
        for _ in 0..MAX_HOPS {
            let Some((changed, by)) = self.history.changed(at, reg) else { break };
            let next = match by {
                Some(by) => self.effect(&mut story, reg, changed, by),
                None => self.entered(&mut story, reg, changed),
            };
            match next {
                Next::Follow(to, before) => (reg, at) = (to, before),
                Next::Begin => {
                    story.origin = by.or(Some(changed));
                    break;
                }
            }
        }
        story
    }

    /// The value was there when the function was entered.
    fn entered(&self, story: &mut Story, reg: u8, entry: usize) -> Next {
        let steps = self.history.steps();
        let caller = entry.checked_sub(1).filter(|c| steps[*c].depth < steps[entry].depth);
        let Some(caller) = caller else { return Next::Begin };
        let insn = self.insn(caller);
        if insn.is_pseudo_call() && (1..=5).contains(&reg) {
            return Next::Follow(reg, caller);
        }
        if reg != 10 {
            let words = self.words(entry, reg);
            story.tell(entry, Kind::Origin, format!("the callback gets it: {words}"));
        }
        Next::Begin
    }

    /// What the instruction of step `by` did to `reg`, which had changed before step `changed`.
    fn effect(&self, story: &mut Story, reg: u8, changed: usize, by: usize) -> Next {
        let insn = self.insn(by);
        match insn.class() {
            BPF_ALU | BPF_ALU64 if insn.dst == reg => self.computed(story, reg, changed, by),
            BPF_LDX if insn.dst == reg => self.loaded(story, changed, by),
            BPF_LD if insn.dst == reg => {
                let words = self.words(changed, reg);
                story.tell(by, Kind::Origin, words);
                Next::Begin
            }
            BPF_STX if insn.mode() == BPF_ATOMIC => {
                let words = self.words(changed, reg);
                story.tell(by, Kind::Origin, format!("fetched from memory: {words}"));
                Next::Begin
            }
            BPF_JMP if insn.op() == BPF_CALL => self.called(story, reg, changed, by),
            BPF_JMP | BPF_JMP32 => {
                let text = self.compared(changed, reg);
                story.tell(by, Kind::Bound, text);
                Next::Follow(reg, by)
            }
            _ => Next::Follow(reg, by),
        }
    }

    /// What a comparison taught.
    fn compared(&self, changed: usize, reg: u8) -> String {
        match self.history.value(changed, reg) {
            Some(r) if r.ty == RegType::PACKET && r.range() > 0 => {
                let from = if r.id == 0 { "of the packet" } else { "from where the pointer was last moved" };
                format!("on this path the comparison proves {} {from}", bytes(r.range()))
            }
            Some(r) if r.ty.base() != RegType::SCALAR && !r.ty.may_be_null() => {
                "not null on this path".to_owned()
            }
            Some(r) => format!("on this path {}", self.env.words(r)),
            None => String::new(),
        }
    }

    /// The shift to the left before a shift to the right by as much: together they are a cast.
    fn cast_begins(&self, by: usize) -> Option<usize> {
        let right = self.insn(by);
        let before = self.history.previous(by)?;
        let left = self.insn(before);
        let pair = matches!(right.op(), BPF_RSH | BPF_ARSH) && left.op() == BPF_LSH;
        let same = (left.class(), left.dst, left.imm) == (right.class(), right.dst, right.imm);
        (pair && same && !right.is_src_reg() && !left.is_src_reg()).then_some(before)
    }

    fn computed(&self, story: &mut Story, reg: u8, changed: usize, by: usize) -> Next {
        let insn = self.insn(by);
        let after = self.value(changed, reg);
        match (insn.op(), insn.is_src_reg()) {
            (BPF_MOV, false) => {
                let words = self.words(changed, reg);
                story.tell(by, Kind::Origin, format!("set here: {words}"));
                Next::Begin
            }
            (BPF_MOV, true) => {
                if let (Some(from), Some(to)) = (self.value(by, insn.src), after)
                    && (insn.class() == BPF_ALU || insn.off != 0)
                {
                    self.compare_bounds(story, by, &from, &to);
                }
                Next::Follow(insn.src, by)
            }
            (BPF_ADD | BPF_SUB, true) => self.added(story, by, after),
            _ => {
                let cast = self.cast_begins(by);
                let begins = cast.unwrap_or(by);
                if let (Some(before), Some(after)) = (self.value(begins, reg), after) {
                    let told = story.events.len();
                    self.compare_bounds(story, by, &before, &after);
                    if cast.is_some() && story.events.len() > told {
                        story.events[told].text =
                            format!("the cast makes it {}", super::words::number(&after));
                    }
                }
                Next::Follow(reg, begins)
            }
        }
    }

    /// A sum or difference of two registers: a moved pointer, or two numbers.
    fn added(&self, story: &mut Story, by: usize, after: Option<Reg>) -> Next {
        let insn = self.insn(by);
        let (Some(a), Some(b)) = (self.value(by, insn.dst), self.value(by, insn.src)) else {
            return Next::Follow(insn.dst, by);
        };
        let (pointer, index) = match (a.is_scalar(), b.is_scalar()) {
            (false, true) => (insn.dst, insn.src),
            (true, false) => (insn.src, insn.dst),
            _ => {
                if let Some(after) = after {
                    self.compare_bounds(story, by, &a, &after);
                }
                // Of a constant there is little to tell.
                let constant = a.is_scalar() && a.var_off.is_const();
                return Next::Follow(if constant { insn.src } else { insn.dst }, by);
            }
        };
        let number = if index == insn.src { &b } else { &a };
        if !number.var_off.is_const() {
            let words = super::words::number(number);
            story.tell(by, Kind::Moved, format!("the pointer is moved by {words}"));
            story.index.get_or_insert((index, by));
        }
        Next::Follow(pointer, by)
    }

    fn compare_bounds(&self, story: &mut Story, by: usize, before: &Reg, after: &Reg) {
        if !before.is_scalar() || !after.is_scalar() {
            if !before.is_scalar() && after.is_scalar() {
                story.tell(by, Kind::Lost, "from here on it is a number, no pointer".to_owned());
            }
            return;
        }
        let had = (before.umax < NO_BOUND, before.smin >= 0);
        let has = (after.umax < NO_BOUND, after.smin >= 0);
        if had.0 && !has.0 || had.1 && !has.1 {
            let words = super::words::number(after);
            let done = self.done(by);
            story.tell(by, Kind::Lost, format!("`{done}` loses the bound: now {words}"));
        } else if !had.0 && has.0 || !had.1 && has.1 && after.umax != u64::from(u32::MAX) {
            story.tell(by, Kind::Bound, format!("here it becomes {}", super::words::number(after)));
        }
    }

    fn loaded(&self, story: &mut Story, changed: usize, by: usize) -> Next {
        let insn = self.insn(by);
        let words = self.words(changed, insn.dst);
        let Some(base) = self.value(by, insn.src) else { return Next::Begin };
        let text = match base.ty.base() {
            RegType::STACK => {
                let at = i64::from(base.off) + base.var_off.value as i64 + i64::from(insn.off);
                if base.var_off.is_const()
                    && let Some((reg, store)) = self.stored(by, at, insn.access_size())
                {
                    if let (Some(from), Some(to)) = (self.value(store, reg), self.value(changed, insn.dst)) {
                        self.compare_bounds(story, by, &from, &to);
                    }
                    return Next::Follow(reg, store);
                }
                format!("read from the stack: {words}")
            }
            RegType::CTX => format!("`ctx->{}`: {words}", context_field(i32::from(insn.off) + base.off)),
            RegType::PACKET => format!("read from the packet: {words}"),
            RegType::MAP_VALUE => {
                format!("read from a value of `{}`: {words}", self.env.maps[base.map()].def.name)
            }
            _ => format!("read from memory: {words}"),
        };
        story.tell(by, Kind::Origin, text);
        Next::Begin
    }

    /// The register that was last stored as a whole at a place of the stack, and the step of the store.
    fn stored(&self, load: usize, at: i64, size: u8) -> Option<(u8, usize)> {
        let mut step = load;
        loop {
            step = self.history.previous(step)?;
            let insn = self.insn(step);
            if !matches!(insn.class(), BPF_STX | BPF_ST) || insn.mode() != BPF_MEM {
                continue;
            }
            let Some(base) = self.value(step, insn.dst).filter(|b| b.ty == RegType::STACK) else { continue };
            let to = i64::from(base.off) + base.var_off.value as i64 + i64::from(insn.off);
            if to < at + i64::from(size) && at < to + i64::from(insn.access_size()) {
                let whole = insn.class() == BPF_STX && to == at && insn.access_size() == size;
                return whole.then_some((insn.src, step));
            }
        }
    }

    fn called(&self, story: &mut Story, reg: u8, changed: usize, by: usize) -> Next {
        let insn = self.insn(by);
        let steps = self.history.steps();
        let name = self.callee(by);
        match reg {
            0 => {
                let inner = changed.checked_sub(1).filter(|i| steps[*i].depth > steps[by].depth);
                if let (true, Some(exit)) = (insn.is_pseudo_call(), inner) {
                    return Next::Follow(0, exit);
                }
                story.tell(by, Kind::Origin, format!("`{name}` returns {}", self.words(changed, 0)));
                Next::Begin
            }
            1..=5 => {
                story.tell(by, Kind::Lost, format!("the call of `{name}` leaves R{reg} unset"));
                Next::Begin
            }
            _ => {
                let (before, after) = (self.value(by, reg), self.value(changed, reg));
                if let (Some(before), Some(after)) = (before, after) {
                    self.invalidated(story, by, &name, &before, &after);
                }
                Next::Follow(reg, by)
            }
        }
    }

    /// A call may make void what other registers hold.
    fn invalidated(&self, story: &mut Story, by: usize, name: &str, before: &Reg, after: &Reg) {
        if before.is_scalar() || !after.is_scalar() && after.ty != RegType::NOT_INIT {
            return;
        }
        let text = match before.ty.base() {
            _ if before.is_pkt_pointer_any() || before.is_dynptr_slice_pkt() => {
                format!("`{name}` may move the packet: pointers into it from before are void")
            }
            _ if before.ref_obj_id != 0 => format!("`{name}` gives the reference back: the pointer is void"),
            _ => format!("`{name}` makes the pointer void"),
        };
        story.tell(by, Kind::Lost, text);
    }

    /// The name of what a call calls, with parentheses.
    pub(super) fn callee(&self, step: usize) -> String {
        let insn = self.insn(step);
        if insn.is_helper_call() {
            return format!("bpf_{}()", helper_name(insn.imm).trim_start_matches("bpf_"));
        }
        if insn.is_kfunc_call() {
            return self
                .env
                .kfunc_of(&insn)
                .map_or_else(|| "a kernel function".to_owned(), |k| format!("{}()", k.name));
        }
        let target = i64::from(self.history.steps()[step].insn) + 1 + i64::from(insn.imm);
        match self.env.find_subprog(target).map(|s| &self.env.subprogs[s].name) {
            Some(name) if !name.is_empty() => format!("{name}()"),
            _ => "a function".to_owned(),
        }
    }

    /// An instruction's statement, without its opcode.
    fn done(&self, step: usize) -> String {
        let text = self.env.disasm(self.history.steps()[step].insn as usize);
        text.split_once(") ").map_or(text.clone(), |(_, rest)| rest.to_owned())
    }

    pub(super) fn insn(&self, step: usize) -> Insn {
        self.env.insns[self.history.steps()[step].insn as usize]
    }

    pub(super) fn value(&self, step: usize, reg: u8) -> Option<Reg> {
        self.history.value(step, reg).copied()
    }

    fn words(&self, step: usize, reg: u8) -> String {
        self.history.value(step, reg).map_or_else(String::new, |r| self.env.words(r))
    }
}

impl Story {
    fn tell(&mut self, step: usize, kind: Kind, text: String) {
        self.events.push(Event { step, kind, text });
    }
}

fn context_field(off: i32) -> &'static str {
    match off {
        0 => "data",
        4 => "data_end",
        8 => "data_meta",
        12 => "ingress_ifindex",
        16 => "rx_queue_index",
        _ => "egress_ifindex",
    }
}
