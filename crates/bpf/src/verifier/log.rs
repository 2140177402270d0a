//! States and instructions in the kernel's log form.

use std::fmt::Write as _;

use super::env::Env;
use super::reg::{ADD_CONST, IterState, Payload, Reg};
use super::state::{Frame, SlotType, State};
use super::types::RegType;
use crate::insn::Insn;

fn unum(v: u64) -> String {
    if v <= u64::from(u16::MAX) { v.to_string() } else { format!("{v:#x}") }
}

fn snum(v: i64) -> String {
    if (i64::from(i16::MIN)..=i64::from(i16::MAX)).contains(&v) { v.to_string() } else { format!("{v:#x}") }
}

/// The bounds that say something, equal ones written together.
fn ranges(reg: &Reg, parts: &mut Vec<String>) {
    let s32 = |v: i32| {
        let wide = i64::from(v);
        if (i64::from(i16::MIN)..=i64::from(i16::MAX)).contains(&wide) { wide } else { i64::from(v as u32) }
    };
    let mut all: [(&str, u64, bool); 8] = [
        ("smin", reg.smin as u64, reg.smin == i64::MIN),
        ("smax", reg.smax as u64, reg.smax == i64::MAX),
        ("umin", reg.umin, reg.umin == 0),
        ("umax", reg.umax, reg.umax == u64::MAX),
        ("smin32", s32(reg.s32_min) as u64, reg.s32_min == i32::MIN),
        ("smax32", s32(reg.s32_max) as u64, reg.s32_max == i32::MAX),
        ("umin32", u64::from(reg.u32_min), reg.u32_min == 0),
        ("umax32", u64::from(reg.u32_max), reg.u32_max == u32::MAX),
    ];
    for i in 0..all.len() {
        let (name, v, omit) = all[i];
        if omit {
            continue;
        }
        let negative = |name: &str, v: u64| name.starts_with('s') && (v as i64) < 0;
        let mut text = format!("{name}=");
        for other in all.iter_mut().skip(i + 2).step_by(2) {
            if !other.2 && other.1 == v && negative(other.0, other.1) == negative(name, v) {
                other.2 = true;
                let _ = write!(text, "{}=", other.0);
            }
        }
        text += &if name.starts_with('s') { snum(v as i64) } else { unum(v) };
        parts.push(text);
    }
}

impl Env<'_> {
    /// One register as the log writes it.
    pub(super) fn reg_text(&self, frame: &Frame, reg: &Reg) -> String {
        let t = reg.ty;
        let mut out = String::new();
        if t == RegType::SCALAR && reg.precise {
            out.push('P');
        }
        if t == RegType::SCALAR && reg.var_off.is_const() {
            return out + &snum(reg.var_off.value as i64);
        }
        out += &t.text();
        if t == RegType::ARENA {
            return out;
        }
        if t == RegType::STACK {
            if frame.frameno != reg.frameno {
                let _ = write!(out, "[{}]", reg.frameno);
            }
            if reg.var_off.is_const() {
                return out + &snum((reg.var_off.value as i64).wrapping_add(i64::from(reg.off)));
            }
        }
        if t.base() == RegType::BTF_ID {
            let (which, id) = reg.btf();
            out += self.btf_name(which, id);
        }
        let mut parts: Vec<String> = Vec::new();
        if reg.id != 0 {
            let sum = if reg.id & ADD_CONST != 0 { format!("{:+}", reg.off) } else { String::new() };
            parts.push(format!("id={}{sum}", reg.id & !ADD_CONST));
        }
        if reg.ref_obj_id != 0 {
            parts.push(format!("ref_obj_id={}", reg.ref_obj_id));
        }
        if t.is_non_owning_ref() {
            parts.push("non_own_ref".to_owned());
        }
        if matches!(t.base(), RegType::MAP_PTR | RegType::MAP_KEY | RegType::MAP_VALUE) {
            let def = self.maps[reg.map()].def;
            if !def.name.is_empty() {
                parts.push(format!("map={}", def.name));
            }
            parts.push(format!("ks={},vs={}", def.key_size, def.value_size));
        }
        if t != RegType::SCALAR && reg.off != 0 {
            parts.push(format!("off={}", snum(i64::from(reg.off))));
        }
        if t.is_pkt_pointer() {
            parts.push(format!("r={}", unum(i64::from(reg.range()) as u64)));
        }
        if t.base() == RegType::MEM {
            parts.push(format!("sz={}", unum(u64::from(reg.mem_size()))));
        }
        if t == RegType::DYNPTR {
            parts.push(format!("type={}", reg.dynptr_type().text()));
        }
        if reg.var_off.is_const() {
            if reg.var_off.value != 0 {
                parts.push(format!("imm={}", snum(reg.var_off.value as i64)));
            }
        } else {
            ranges(reg, &mut parts);
            if !reg.var_off.is_unknown() {
                parts.push(format!("var_off={}", reg.var_off));
            }
        }
        out + "(" + &parts.join(",") + ")"
    }

    /// A frame of a state, all of it or only what the last instruction touched.
    pub(super) fn state_text(&self, st: &State, frameno: usize, all: bool) -> String {
        let Some(frame) = st.frames.get(frameno) else { return "\n".to_owned() };
        let mut out = String::new();
        if frame.frameno != 0 {
            let _ = write!(out, " frame{}:", frame.frameno);
        }
        for (i, r) in frame.regs.iter().enumerate() {
            if r.ty != RegType::NOT_INIT && (all || self.scratched_regs & (1 << i) != 0) {
                let _ = write!(out, " R{i}={}", self.reg_text(frame, r));
            }
        }
        let mut i = 0;
        while i < frame.stack.len() {
            if all || self.scratched_slots & (1 << i) != 0 {
                i = self.slot_text(frame, i, &mut out);
            }
            i += 1;
        }
        for (n, r) in st.refs.iter().filter(|r| r.id != 0).enumerate() {
            let _ = write!(out, "{}{}", if n == 0 { " refs=" } else { "," }, r.id);
        }
        if frame.in_callback {
            out += " cb";
        }
        if frame.in_async_callback {
            out += " async_cb";
        }
        out + "\n"
    }

    /// Writes one slot; returns the last slot that belongs to it.
    fn slot_text(&self, frame: &Frame, i: usize, out: &mut String) -> usize {
        let slot = &frame.stack[i];
        if slot.types.iter().all(|t| *t == SlotType::Invalid) {
            return i;
        }
        let types: String = slot
            .types
            .iter()
            .map(|t| match t {
                SlotType::Invalid => '?',
                SlotType::Spill => 'r',
                SlotType::Misc => 'm',
                SlotType::Zero => '0',
                SlotType::Dynptr => 'd',
                SlotType::Iter => 'i',
                SlotType::IrqFlag => 'f',
            })
            .collect();
        let off = |i: usize| -(i as i32 + 1) * 8;
        match slot.types[7] {
            SlotType::Spill => {
                let raw: String = types.chars().take_while(|c| *c != 'r').collect();
                let _ = write!(out, " fp{}={raw}{}", off(i), self.reg_text(frame, &slot.reg));
            }
            SlotType::Dynptr => {
                let i = (i + 1).min(frame.stack.len() - 1);
                let r = &frame.stack[i].reg;
                let mut parts = Vec::new();
                if r.id != 0 {
                    parts.push(format!("id={}", r.id));
                }
                if r.ref_obj_id != 0 {
                    parts.push(format!("ref_id={}", r.ref_obj_id));
                }
                // The kernel reads the mark of the first slot as one more number.
                parts.push("dynptr_id=1".to_owned());
                let _ = write!(out, " fp{}=dynptr_{}({})", off(i), r.dynptr_type().text(), parts.join(","));
                return i;
            }
            SlotType::Iter => {
                let r = &slot.reg;
                if let Payload::Iter { btf, id, state, depth } = r.pl
                    && r.ref_obj_id != 0
                {
                    let name = self.iter_name(btf, id);
                    let state = if state == IterState::Active { "active" } else { "drained" };
                    let rid = r.ref_obj_id;
                    let _ =
                        write!(out, " fp{}=iter_{name}(ref_id={rid},state={state},depth={depth})", off(i));
                }
            }
            _ => {
                let _ = write!(out, " fp{}={types}", off(i));
            }
        }
        i
    }

    /// The state after the running instruction, beside it where that is the last thing written.
    pub(super) fn log_insn_state(&mut self) {
        if !self.level1() {
            return;
        }
        if self.prev_log_pos != 0 && self.prev_log_pos == self.log.len() {
            self.log.pop();
            let pos = self.prev_insn_print_pos;
            let column = (pos + 4).max(40).div_ceil(8) * 8;
            let pad = (column - pos - 1).max(1);
            let _ = write!(self.log, "{:>pad$};", ' ');
        } else {
            let _ = write!(self.log, "{}:", self.insn_idx);
        }
        let frame = self.cur.curframe();
        let text = self.state_text(&self.cur, frame, false);
        self.log.push_str(&text);
        self.scratched_regs = 0;
        self.scratched_slots = 0;
    }

    /// The running instruction, under its source line.
    pub(super) fn log_insn(&mut self) {
        if self.scratched_regs != 0 || self.scratched_slots != 0 {
            self.log_insn_state();
        }
        let idx = self.insn_idx as usize;
        self.log_line(idx, "; ");
        let start = self.log.len();
        let text = self.disasm(idx);
        let _ = writeln!(self.log, "{idx}: {text}");
        self.prev_insn_print_pos = self.log.len() - start;
        self.prev_log_pos = self.log.len();
    }

    pub(super) fn disasm(&self, idx: usize) -> String {
        let insn = &self.insns[idx];
        let next = self.insns.get(idx + 1);
        match self.kfunc_of(insn) {
            // The kernel knows the function by its number in its own type information.
            Some(k) => crate::disasm::disassemble(&Insn { imm: k.id as i32, ..*insn }, next, Some(&k.name)),
            None => crate::disasm::disassemble(insn, next, None),
        }
    }

    /// The C source line of an instruction, if it is another one than before.
    pub(super) fn log_line(&mut self, insn: usize, prefix: &str) {
        let lines = self.input.line_info;
        let at = lines.partition_point(|l| l.insn as usize <= insn);
        if at == 0 || !self.level1() {
            return;
        }
        let (now, prev) = (&lines[at - 1], self.prev_line.map(|p| &lines[p]));
        if prev.is_some_and(|p| p.insn == now.insn || p.file == now.file && p.line == now.line) {
            return;
        }
        let file = now.file.rsplit('/').next().unwrap_or(&now.file);
        let text = now.text.trim_start();
        let _ = writeln!(self.log, "{prefix}{text} @ {file}:{}", now.line);
        self.prev_line = Some(at - 1);
    }
}
