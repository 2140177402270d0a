//! Wide loads: what they name, and what a register becomes by them. Also: which opcodes exist.

use uapi::Errno;
use uapi::bpf::*;

use super::alu::MAX_VAR_OFF;
use super::btfx;
use super::env::{Env, Pseudo, Res};
use super::reg::{BtfRef, Payload, Reg};
use super::types::{RegType, flag};
use crate::btf::Kind;
use crate::insn::Insn;

/// Most maps of a program.
const MAX_USED_MAPS: usize = 64;

/// Whether the kernel knows the opcode at all (wide loads aside).
fn opcode_exists(insn: &Insn) -> bool {
    let size = insn.code & 0x18;
    match insn.class() {
        BPF_ALU => match insn.op() {
            BPF_NEG => !insn.is_src_reg(),
            op => op <= BPF_END,
        },
        BPF_ALU64 => match insn.op() {
            BPF_NEG | BPF_END => !insn.is_src_reg(),
            op => op < BPF_END,
        },
        BPF_JMP => match insn.op() {
            BPF_CALL | BPF_EXIT | BPF_JCOND | BPF_JA => !insn.is_src_reg(),
            op => op < BPF_JCOND,
        },
        BPF_JMP32 => match insn.op() {
            BPF_CALL | BPF_EXIT => false,
            BPF_JA => !insn.is_src_reg(),
            op => op < BPF_JCOND,
        },
        BPF_STX => matches!(insn.mode(), BPF_MEM | BPF_ATOMIC),
        BPF_ST => insn.mode() == BPF_MEM,
        BPF_LDX => insn.mode() == BPF_MEM || insn.mode() == BPF_MEMSX && size != BPF_DW,
        _ => matches!(insn.mode(), BPF_ABS | BPF_IND) && size != BPF_DW,
    }
}

impl Env<'_> {
    /// Resolves the wide loads and refuses opcodes that do not exist.
    pub(super) fn resolve_ldimm64(&mut self) -> Res {
        let mut used: Vec<u32> = Vec::new();
        let mut i = 0;
        while i < self.insns.len() {
            let insn = self.insns[i];
            if insn.class() == BPF_LDX && (!matches!(insn.mode(), BPF_MEM | BPF_MEMSX) || insn.imm != 0) {
                return self.fail(Errno::EINVAL, format_args!("BPF_LDX uses reserved fields\n"));
            }
            if !insn.is_ld_imm64() {
                if !opcode_exists(&insn) {
                    return self.fail(Errno::EINVAL, format_args!("unknown opcode {:02x}\n", insn.code));
                }
                i += 1;
                continue;
            }
            let next = self.insns.get(i + 1).copied();
            let Some(next) = next.filter(|n| n.code == 0 && n.dst == 0 && n.src == 0 && n.off == 0) else {
                return self.fail(Errno::EINVAL, format_args!("invalid bpf_ld_imm64 insn\n"));
            };
            self.aux[i].pseudo = self.resolve_one(&insn, &next, &mut used)?;
            i += 2;
        }
        Ok(())
    }

    fn resolve_one(&mut self, insn: &Insn, next: &Insn, used: &mut Vec<u32>) -> Res<Pseudo> {
        let by_value = match insn.src {
            0 | BPF_PSEUDO_FUNC => return Ok(Pseudo::None),
            BPF_PSEUDO_BTF_ID => return self.resolve_ksym(insn),
            BPF_PSEUDO_MAP_VALUE | BPF_PSEUDO_MAP_IDX_VALUE => true,
            BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_IDX if next.imm == 0 => false,
            _ => return self.fail(Errno::EINVAL, format_args!("unrecognized bpf_ld_imm64 insn\n")),
        };
        let by_fd = matches!(insn.src, BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE);
        let map = usize::try_from(insn.imm).ok().filter(|m| *m < self.input.maps.len() && !by_fd);
        let Some(map) = map else {
            // The standard streams are open and are no maps.
            let e = if by_fd && (0..3).contains(&insn.imm) { Errno::EINVAL } else { Errno::EBADF };
            return self.fail(e, format_args!("fd {} is not pointing to valid bpf_map\n", insn.imm));
        };
        let def = self.maps[map].def;
        if !used.contains(&(map as u32)) {
            if used.len() >= MAX_USED_MAPS {
                return self.fail(
                    Errno::E2BIG,
                    format_args!(
                        "The total number of maps per program has reached the limit of {MAX_USED_MAPS}\n"
                    ),
                );
            }
            self.map_usable(map, used)?;
            used.push(map as u32);
        }
        if !by_value {
            return Ok(Pseudo::Map(map as u32));
        }
        let off = next.imm as u32;
        if i64::from(off) >= MAX_VAR_OFF {
            return self.fail(Errno::EINVAL, format_args!("direct value offset of {off} is not allowed\n"));
        }
        if def.map_type == MapType::Arena {
            return Ok(Pseudo::MapValue { map: map as u32, off });
        }
        if def.map_type != MapType::Array {
            return self
                .fail(Errno::EINVAL, format_args!("no direct value access support for this map type\n"));
        }
        if def.max_entries != 1 {
            return self.bad_value_pointer(def.value_size, off, Errno::ENOTSUPP);
        }
        if off >= def.value_size {
            return self.bad_value_pointer(def.value_size, off, Errno::EINVAL);
        }
        Ok(Pseudo::MapValue { map: map as u32, off })
    }

    fn bad_value_pointer<T>(&mut self, value_size: u32, off: u32, e: Errno) -> Res<T> {
        self.fail(e, format_args!("invalid access to map value pointer, value_size={value_size} off={off}\n"))
    }

    /// Maps that no XDP program can use, or only one of.
    fn map_usable(&mut self, map: usize, used: &[u32]) -> Res {
        match self.maps[map].def.map_type {
            MapType::StructOps => {
                self.fail(Errno::EINVAL, format_args!("bpf_struct_ops map cannot be used in prog\n"))
            }
            ty @ (MapType::CgroupStorage | MapType::PercpuCgroupStorage) => {
                let again = used.iter().any(|m| self.maps[*m as usize].def.map_type == ty);
                if again {
                    return self.fail(
                        Errno::EBUSY,
                        format_args!("only one cgroup storage of each type is allowed\n"),
                    );
                }
                Ok(())
            }
            MapType::Arena => {
                let again = used.iter().any(|m| self.maps[*m as usize].def.map_type == MapType::Arena);
                if again {
                    return self.fail(Errno::EBUSY, format_args!("Only one arena per program\n"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn has_arena(&self) -> bool {
        self.aux.iter().any(|a| match a.pseudo {
            Pseudo::Map(m) | Pseudo::MapValue { map: m, .. } => {
                self.maps[m as usize].def.map_type == MapType::Arena
            }
            _ => false,
        })
    }

    fn resolve_ksym(&mut self, insn: &Insn) -> Res<Pseudo> {
        let (Some(btf), Some(sym)) =
            (self.input.kernel_btf, usize::try_from(insn.imm).ok().and_then(|i| self.input.ksyms.get(i)))
        else {
            return self
                .fail(Errno::ENOENT, format_args!("ldimm64 insn specifies invalid btf_id {}.\n", insn.imm));
        };
        if sym.btf.is_none() {
            // The loader puts the address, or 0 for what is not there.
            return Ok(Pseudo::Address);
        }
        let kind = if sym.is_func { crate::btf::BtfKind::Func } else { crate::btf::BtfKind::Var };
        let Some(id) = btf.find(&sym.name, kind) else {
            return self
                .fail(Errno::ENOENT, format_args!("ldimm64 insn specifies invalid btf_id {}.\n", insn.imm));
        };
        if sym.is_func {
            return Ok(Pseudo::Ksym { ty: RegType::MEM.with(flag::MEM_RDONLY), id: 0, mem_size: 0 });
        }
        if !self.opts.kernel_variables {
            return self.fail(
                Errno::ENOENT,
                format_args!("ldimm64 failed to find the address for kernel symbol '{}'.\n", sym.name),
            );
        }
        let Kind::Var { ty, .. } = *btfx::kind(btf, id) else {
            return self.fail(
                Errno::EINVAL,
                format_args!("pseudo btf_id {} in ldimm64 isn't KIND_VAR or KIND_FUNC\n", id.0),
            );
        };
        let percpu = btf.find(".data..percpu", crate::btf::BtfKind::Datasec).is_some_and(
            |d| matches!(btfx::kind(btf, d), Kind::Datasec { vars, .. } if vars.iter().any(|v| v.ty == id)),
        );
        if percpu {
            return Ok(Pseudo::Ksym { ty: RegType::BTF_ID.with(flag::MEM_PERCPU), id: ty.0, mem_size: 0 });
        }
        let t = btfx::skip_modifiers(btf, ty);
        if !btfx::members(btf, t).is_empty() {
            return Ok(Pseudo::Ksym { ty: RegType::BTF_ID, id: ty.0, mem_size: 0 });
        }
        match btfx::size(btf, t) {
            Some(mem_size) => Ok(Pseudo::Ksym { ty: RegType::MEM.with(flag::MEM_RDONLY), id: 0, mem_size }),
            None => {
                let name = btfx::name(btf, t).to_owned();
                self.fail(
                    Errno::EINVAL,
                    format_args!("ldimm64 unable to resolve the size of type '{name}': -22\n"),
                )
            }
        }
    }

    pub(super) fn check_ld_imm(&mut self, insn: &Insn) -> Res {
        if !insn.is_ld_imm64() {
            return self.fail(Errno::EINVAL, format_args!("invalid BPF_LD_IMM insn\n"));
        }
        if insn.off != 0 {
            return self.fail(Errno::EINVAL, format_args!("BPF_LD_IMM64 uses reserved fields\n"));
        }
        self.check_reg(insn.dst, super::alu::Use::Dst)?;
        let dst = usize::from(insn.dst);
        let idx = self.insn_idx as usize;
        if insn.src == BPF_PSEUDO_FUNC {
            let r = self.func_address(insn)?;
            *self.reg_mut(dst) = r;
            return Ok(());
        }
        let r = match self.aux[idx].pseudo {
            Pseudo::None => {
                let high = self.insns.get(idx + 1).map_or(0, |n| n.imm as u32);
                Reg::scalar((u64::from(high) << 32) | u64::from(insn.imm as u32))
            }
            Pseudo::Address => Reg::UNKNOWN,
            Pseudo::Map(map) => Reg::pointer(RegType::MAP_PTR, Payload::Map { map, uid: 0 }),
            Pseudo::MapValue { map, .. } if self.maps[map as usize].def.map_type == MapType::Arena => {
                Reg::UNKNOWN
            }
            Pseudo::MapValue { map, off } => {
                let mut r = Reg::pointer(RegType::MAP_VALUE, Payload::Map { map, uid: 0 });
                r.off = off as i32;
                r
            }
            Pseudo::Ksym { ty, id, mem_size } => {
                let pl = if ty.base() == RegType::MEM {
                    Payload::Mem { size: mem_size, dynptr_id: 0 }
                } else {
                    Payload::Btf { btf: BtfRef::Kernel, id }
                };
                Reg::pointer(ty, pl)
            }
        };
        *self.reg_mut(dst) = r;
        Ok(())
    }

    fn func_address(&mut self, insn: &Insn) -> Res<Reg> {
        let target = i64::from(self.insn_idx) + i64::from(insn.imm) + 1;
        if !self.has_func_info {
            return self.fail(Errno::EINVAL, format_args!("missing btf func_info\n"));
        }
        let sub = self.find_subprog(target).unwrap_or(0);
        if self.subprogs[sub].is_global {
            return self.fail(Errno::EINVAL, format_args!("callback function not static\n"));
        }
        Ok(Reg::pointer(RegType::FUNC, Payload::Subprog(sub as u32)))
    }
}
