//! Steps that call: helpers, kernel functions, functions of the program; and loops.

use uapi::bpf::*;

use super::{FP, FUNCTIONS, Feature, Gen, Kind, Params, SLOTS, slot_offset};
use crate::soundness::world::{self, ARRAY, HASH, ONE, READ_ONLY, RING, WIDE_HASH};

/// Helpers without arguments.
const SOURCES: [i32; 4] =
    [func::GET_PRANDOM_U32, func::GET_PRANDOM_U32, func::KTIME_GET_NS, func::GET_SMP_PROCESSOR_ID];

impl Gen<'_> {
    /// Whether helpers may be called: the registers that they change are not needed.
    fn may_call(&self) -> bool {
        self.locked & 0x3f == 0
    }

    pub(super) fn in_callback(&self) -> bool {
        self.own.is_some_and(|n| matches!(self.functions[n], Params::Callback | Params::Each(_)))
    }

    /// `reg` = pointer to 16 initialised bytes of stack.
    fn stack_buffer(&mut self, reg: u8, slot: usize) {
        for s in [slot, slot + 1] {
            if self.slots[s] != Kind::Num {
                let value = self.rng.odd_number() as i32;
                self.push(BPF_ST | BPF_MEM | BPF_DW, FP, 0, slot_offset(s), value);
                self.slots[s] = Kind::Num;
            }
        }
        self.mov_reg(reg, FP);
        self.alu(BPF_ADD, reg, i32::from(slot_offset(slot + 1)));
    }

    /// A key on the stack, its address in R2 and the map in R1.
    fn key(&mut self, map: usize) {
        let slot = self.rng.index(self.free_slots - 1);
        let off = slot_offset(slot);
        let numbers = self.holding(|k| k == Kind::Num);
        if numbers.is_empty() || self.rng.one_in(2) {
            let key = self.rng.below(6) as i32;
            self.push(BPF_ST | BPF_MEM | BPF_DW, FP, 0, off, key);
        } else {
            let r = self.rng.pick(&numbers);
            self.push(BPF_STX | BPF_MEM | BPF_DW, FP, r, off, 0);
        }
        self.slots[slot] = Kind::Num;
        self.mov_reg(2, FP);
        self.alu(BPF_ADD, 2, i32::from(off));
        self.wide(1, BPF_PSEUDO_MAP_IDX, map as i32, 0);
    }

    /// Finds a value of a map; sometimes without a check for null.
    pub(super) fn lookup(&mut self) {
        self.feature(Feature::Lookup);
        if self.rng.one_in(4) {
            let r = self.fresh();
            let map = self.rng.pick(&[ONE, READ_ONLY]);
            self.wide(r, BPF_PSEUDO_MAP_IDX_VALUE, map as i32, 0);
            return self.set(r, Kind::Value(map));
        }
        if !self.may_call() {
            return self.arithmetic();
        }
        let map = self.rng.pick(&world::LOOKUPS);
        self.key(map);
        self.call(func::MAP_LOOKUP_ELEM);
        let r = if self.rng.one_in(2) { self.fresh() } else { 0 };
        if r != 0 {
            self.mov_reg(r, 0);
        }
        if self.sloppy && self.rng.one_in(8) {
            return self.set(r, Kind::Value(map));
        }
        self.set(r, Kind::MaybeValue(map));
        self.keeping(r, |g| g.null_check(r, map));
    }

    fn null_check(&mut self, r: u8, map: usize) {
        if self.rng.one_in(3) && !self.in_callback() {
            let fine = self.jump(BPF_JMP | BPF_JNE | BPF_K, r, 0, 0);
            self.mov(0, 2);
            self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
            self.land(fine);
            return self.set(r, Kind::Value(map));
        }
        let over = self.jump(BPF_JMP | BPF_JEQ | BPF_K, r, 0, 0);
        self.set(r, Kind::Unset);
        let before = (self.regs, self.slots);
        self.set(r, Kind::Value(map));
        self.constant_access();
        self.nested();
        self.land(over);
        self.join(before);
    }

    pub(super) fn helper(&mut self) {
        if !self.may_call() {
            return self.arithmetic();
        }
        match (self.rng.below(9), self.ctx) {
            (0 | 1, _) => {
                let f = self.rng.pick(&SOURCES);
                self.call(f);
                self.set(0, Kind::Num);
                let keep = self.keeping(0, Self::fresh);
                self.mov_reg(keep, 0);
                self.set(keep, Kind::Num);
            }
            (2, Some(ctx)) => self.adjust(ctx),
            (3, _) => self.change_map(),
            (4, _) => self.record(),
            (5, Some(ctx)) => self.copy_bytes(ctx),
            _ => self.checksum(),
        }
    }

    /// Moves an edge of the packet.
    fn adjust(&mut self, ctx: u8) {
        self.feature(Feature::Adjust);
        let f = self.rng.pick(&[func::XDP_ADJUST_HEAD, func::XDP_ADJUST_TAIL, func::XDP_ADJUST_META]);
        let delta = self.rng.range(-8, 8) as i32 * 4;
        self.mov(2, delta);
        self.mov_reg(1, ctx);
        self.call(f);
        self.set(0, Kind::Num);
        if self.sloppy && self.rng.one_in(4) {
            return;
        }
        for k in self.regs.iter_mut().chain(&mut self.slots) {
            if matches!(k, Kind::Pkt(_) | Kind::Meta | Kind::End) {
                *k = Kind::Unset;
            }
        }
    }

    fn change_map(&mut self) {
        self.feature(Feature::MapChange);
        let map = self.rng.pick(&[ARRAY, HASH]);
        self.key(map);
        if self.rng.one_in(3) {
            self.call(func::MAP_DELETE_ELEM);
        } else {
            let slot = self.rng.index(2);
            for s in slot..slot + 4 {
                if self.slots[s] != Kind::Num {
                    self.push(BPF_ST | BPF_MEM | BPF_DW, FP, 0, slot_offset(s), 7);
                    self.slots[s] = Kind::Num;
                }
            }
            self.mov_reg(3, FP);
            self.alu(BPF_ADD, 3, i32::from(slot_offset(slot + 3)));
            self.mov(4, 0);
            self.call(func::MAP_UPDATE_ELEM);
        }
        self.set(0, Kind::Num);
    }

    /// Reserves a record and gives it back.
    fn record(&mut self) {
        self.feature(Feature::Ringbuf);
        let size = self.rng.range(1, 4) as u16 * 8;
        self.wide(1, BPF_PSEUDO_MAP_IDX, RING as i32, 0);
        self.mov(2, i32::from(size));
        self.mov(3, 0);
        self.call(func::RINGBUF_RESERVE);
        let keep = self.rng.pick(&[7, 8, 9]);
        if self.locked & (1 << keep) != 0 {
            // Nowhere to keep it: given back at once.
            let none = self.jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0);
            self.mov_reg(1, 0);
            return self.submit(none);
        }
        self.mov_reg(keep, 0);
        let none = self.jump(BPF_JMP | BPF_JEQ | BPF_K, keep, 0, 0);
        self.set(keep, Kind::Record(size));
        self.keeping(keep, |g| {
            for off in (0..size as i16).step_by(8) {
                g.push(BPF_ST | BPF_MEM | BPF_DW, keep, 0, off, 1);
            }
            for _ in 0..g.rng.below(3) {
                g.constant_access();
            }
        });
        self.mov_reg(1, keep);
        self.set(keep, Kind::Unset);
        self.submit(none);
    }

    fn submit(&mut self, none: super::Jump) {
        self.mov(2, 0);
        let end = self.rng.pick(&[func::RINGBUF_SUBMIT, func::RINGBUF_DISCARD]);
        self.call(end);
        self.land(none);
        self.clobber();
    }

    /// Copies packet bytes to or from memory, a variable number of them.
    fn copy_bytes(&mut self, ctx: u8) {
        self.feature(Feature::MemorySize);
        let values = self.holding(|k| matches!(k, Kind::Value(m) if !world::is_read_only(m)));
        let before = (self.regs, self.slots);
        let mut out = Vec::new();
        let n = self.number();
        self.mov_reg(4, n);
        self.set(4, Kind::Num);
        let value = (!values.is_empty()).then(|| self.rng.pick(&values)).filter(|v| *v > 4);
        let room = match value.map(|v| self.kind(v)) {
            Some(Kind::Value(map)) => world::value_size(map),
            _ => 16,
        };
        self.bound(4, i32::from(room), &mut out);
        match value {
            Some(v) => self.mov_reg(3, v),
            None => self.stack_buffer(3, 0),
        }
        if self.rng.one_in(3) {
            self.push(BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, 0);
        } else {
            let over = self.jump(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, 0);
            out.push(over);
        }
        let off = self.rng.range(0, 60) as i32;
        self.mov(2, off);
        self.mov_reg(1, ctx);
        let f = self.rng.pick(&[func::XDP_LOAD_BYTES, func::XDP_STORE_BYTES]);
        self.call(f);
        for j in out {
            self.land(j);
        }
        self.join(before);
        self.clobber();
    }

    /// `bpf_csum_diff` over the stack and a map value.
    fn checksum(&mut self) {
        self.feature(Feature::MemorySize);
        let before = (self.regs, self.slots);
        let mut out = Vec::new();
        let n = self.number();
        self.mov_reg(4, n);
        self.set(4, Kind::Num);
        self.bound(4, i32::from(world::value_size(ONE)), &mut out);
        self.alu(BPF_AND, 4, -4);
        self.stack_buffer(1, 1);
        let size = self.rng.pick(&[0, 4, 8, 16]);
        let size = self.limit(size);
        self.mov(2, size);
        self.wide(3, BPF_PSEUDO_MAP_IDX_VALUE, ONE as i32, 0);
        self.mov(5, 0);
        self.call(func::CSUM_DIFF);
        for j in out {
            self.land(j);
        }
        self.join(before);
        self.clobber();
    }

    /// Some kind of loop.
    pub(super) fn repeat(&mut self) {
        if self.nesting > 1 || self.locked & 0x3f != 0 {
            return self.arithmetic();
        }
        match self.rng.below(8) {
            0 | 1 => self.bpf_loop(),
            2 => self.for_each(),
            3 => self.iterator(),
            4 => self.may_goto(),
            _ => self.counted(),
        }
    }

    /// Steps that leave registers and slots such that they can be taken again.
    fn body(&mut self, counter: Option<u8>) {
        self.regs[..6].fill(Kind::Unset);
        // What the body changes must not be known from before it.
        let kept = self.regs;
        let locked = self.locked;
        for (r, k) in kept.iter().enumerate() {
            if !matches!(k, Kind::Unset | Kind::Num) {
                self.locked |= 1 << r;
            }
        }
        if let Some(c) = counter {
            self.locked |= 1 << c;
        }
        for s in &mut self.slots {
            if *s != Kind::Num {
                *s = Kind::Unset;
            }
        }
        let before = (self.regs, self.slots);
        self.nested();
        self.locked = locked;
        self.join(before);
        self.regs[..6].fill(Kind::Unset);
    }

    fn loop_counter(&mut self) -> Option<u8> {
        let free: Vec<u8> = [7, 8, 9].into_iter().filter(|r| self.locked & (1 << r) == 0).collect();
        (!free.is_empty()).then(|| self.rng.pick(&free))
    }

    fn counted(&mut self) {
        let Some(c) = self.loop_counter() else { return self.arithmetic() };
        self.feature(Feature::Loop);
        let step = self.rng.range(1, 3) as i32;
        let end = step * self.rng.range(1, 6) as i32;
        self.mov(c, 0);
        self.set(c, Kind::Num);
        let head = self.insns.len();
        let before = (self.regs, self.slots);
        self.body(Some(c));
        self.alu(BPF_ADD, c, step);
        let op = self.rng.pick(&[BPF_JLT, BPF_JSLT, BPF_JNE]);
        let class = self.rng.pick(&[BPF_JMP, BPF_JMP, BPF_JMP32]);
        self.back(class | op | BPF_K, c, 0, end, head);
        self.join(before);
        self.set(c, Kind::Num);
    }

    fn may_goto(&mut self) {
        let Some(c) = self.loop_counter() else { return self.arithmetic() };
        self.feature(Feature::MayGoto);
        self.mov(c, 0);
        self.set(c, Kind::Num);
        let head = self.insns.len();
        let out = self.jump(BPF_JMP | BPF_JCOND, 0, 0, 0);
        let before = (self.regs, self.slots);
        self.body(Some(c));
        self.alu(BPF_ADD, c, 1);
        let times = self.rng.range(2, 30) as i32;
        let done = self.jump(BPF_JMP | BPF_JGT | BPF_K, c, 0, times);
        self.back(BPF_JMP | BPF_JA, 0, 0, 0, head);
        self.land(out);
        self.land(done);
        self.join(before);
    }

    /// A function of the program with these parameters; `None` if there are too many.
    fn pick_function(&mut self, params: Params) -> Option<usize> {
        let after = self.own.map_or(0, |n| n + 1);
        let known: Vec<usize> =
            (after..self.functions.len()).filter(|f| self.functions[*f] == params).collect();
        if !known.is_empty() && self.rng.one_in(2) {
            return Some(self.rng.pick(&known));
        }
        if self.functions.len() == FUNCTIONS {
            return None;
        }
        self.functions.push(params);
        Some(self.functions.len() - 1)
    }

    fn function_address(&mut self, r: u8, function: usize) {
        self.uses.push((self.insns.len(), function));
        self.wide(r, BPF_PSEUDO_FUNC, 0, 0);
    }

    fn bpf_loop(&mut self) {
        let Some(f) = self.pick_function(Params::Callback) else { return self.counted() };
        self.feature(Feature::BpfLoop);
        let mut out = Vec::new();
        let before = (self.regs, self.slots);
        if self.rng.one_in(2) {
            let times = self.rng.range(0, 20) as i32;
            self.mov(1, times);
        } else {
            let n = self.number();
            self.mov_reg(1, n);
            self.bound(1, 12, &mut out);
        }
        self.stack_buffer(3, 6);
        self.function_address(2, f);
        self.mov(4, 0);
        self.call(func::LOOP);
        for j in out {
            self.land(j);
        }
        self.join(before);
        self.clobber();
    }

    fn for_each(&mut self) {
        let map = self.rng.pick(&[ARRAY, HASH, WIDE_HASH]);
        let Some(f) = self.pick_function(Params::Each(map)) else { return self.counted() };
        self.feature(Feature::ForEach);
        self.stack_buffer(3, 8);
        self.function_address(2, f);
        self.wide(1, BPF_PSEUDO_MAP_IDX, map as i32, 0);
        self.mov(4, 0);
        self.call(func::FOR_EACH_MAP_ELEM);
        self.set(0, Kind::Num);
    }

    /// `bpf_for(i, 0, n)`.
    fn iterator(&mut self) {
        if !self.with_kfuncs || self.free_slots < SLOTS {
            return self.counted();
        }
        self.feature(Feature::Iterator);
        let slot = 10;
        self.slots[slot..=slot + 1].fill(Kind::Unset);
        let pointer = |g: &mut Self| {
            g.mov_reg(1, FP);
            g.alu(BPF_ADD, 1, -8 * (SLOTS as i32 + 1));
        };
        pointer(self);
        let times = self.rng.range(1, 10) as i32;
        self.mov(2, 0);
        self.mov(3, times);
        self.kfunc("bpf_iter_num_new");
        let head = self.insns.len();
        pointer(self);
        self.kfunc("bpf_iter_num_next");
        let done = self.jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0);
        let before = (self.regs, self.slots);
        let free = std::mem::replace(&mut self.free_slots, slot);
        self.body(None);
        self.free_slots = free;
        self.back(BPF_JMP | BPF_JA, 0, 0, 0, head);
        self.land(done);
        self.join(before);
        pointer(self);
        self.kfunc("bpf_iter_num_destroy");
    }

    /// Calls a function of the program.
    pub(super) fn call_function(&mut self) {
        if !self.may_call() {
            return self.arithmetic();
        }
        let mut choices = vec![Params::Numbers, Params::Global, Params::Buffer];
        if self.ctx.is_some() {
            choices.push(Params::Ctx);
        }
        let params = self.rng.pick(&choices);
        let Some(f) = self.pick_function(params) else { return self.arithmetic() };
        self.feature(if params == Params::Global { Feature::GlobalCall } else { Feature::Call });
        let n = self.number();
        if n != 2 {
            self.mov_reg(2, n);
        }
        match (params, self.ctx) {
            (Params::Buffer, _) => self.stack_buffer(1, 4),
            (Params::Ctx, Some(ctx)) => self.mov_reg(1, ctx),
            _ => self.mov_reg(1, 2),
        }
        self.uses.push((self.insns.len(), f));
        self.push(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0);
        self.clobber();
        self.set(0, Kind::Num);
    }
}
