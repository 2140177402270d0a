//! What is known of one register or spilled slot.
//!
//! [`Reg`] is plain data that is copied freely. Its bounds are kept in step by
//! [`Reg::bounds_sync`] in [`super::bounds`].

use super::tnum::Tnum;
use super::types::{RegType, flag};

/// Which BTF a type id belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BtfRef {
    /// The object's own.
    Program,
    /// The kernel's.
    Kernel,
}

/// Kinds of dynptr (`enum bpf_dynptr_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DynptrType {
    Invalid,
    Local,
    Ringbuf,
    Skb,
    Xdp,
    SkbMeta,
}

impl DynptrType {
    /// The kind that an argument type's flags name.
    pub(crate) fn from_flags(flags: u32) -> Self {
        match flags & flag::DYNPTR_MASK {
            flag::DYNPTR_LOCAL => Self::Local,
            flag::DYNPTR_RINGBUF => Self::Ringbuf,
            flag::DYNPTR_SKB => Self::Skb,
            flag::DYNPTR_XDP => Self::Xdp,
            flag::DYNPTR_SKB_META => Self::SkbMeta,
            _ => Self::Invalid,
        }
    }

    /// The flag of this kind.
    pub(crate) fn to_flag(self) -> u32 {
        match self {
            Self::Local => flag::DYNPTR_LOCAL,
            Self::Ringbuf => flag::DYNPTR_RINGBUF,
            Self::Skb => flag::DYNPTR_SKB,
            Self::Xdp => flag::DYNPTR_XDP,
            Self::SkbMeta => flag::DYNPTR_SKB_META,
            Self::Invalid => 0,
        }
    }

    /// Whether it holds a reference.
    pub(crate) fn refcounted(self) -> bool {
        self == Self::Ringbuf
    }

    /// The kernel's word.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Invalid => "<invalid>",
            Self::Local => "local",
            Self::Ringbuf => "ringbuf",
            Self::Skb => "skb",
            Self::Xdp => "xdp",
            Self::SkbMeta => "skb_meta",
        }
    }
}

/// State of an open-coded iterator (`enum bpf_iter_state`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IterState {
    Active,
    Drained,
}

/// What a pointer carries beside its offset; depends on the kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Payload {
    None,
    /// Packet pointers: bytes from the pointer's base that are proven to exist, or
    /// [`AT_PKT_END`] and [`BEYOND_PKT_END`].
    Range(i32),
    /// Map pointers, keys and values: index in the map table, and the identity of an inner map.
    Map {
        map: u32,
        uid: u32,
    },
    /// Pointer to an object described by BTF.
    Btf {
        btf: BtfRef,
        id: u32,
    },
    /// Sized memory, and the dynptr it is a slice of.
    Mem {
        size: u32,
        dynptr_id: u32,
    },
    Dynptr {
        ty: DynptrType,
        first_slot: bool,
    },
    Iter {
        btf: BtfRef,
        id: u32,
        state: IterState,
        depth: u32,
    },
    /// Saved interrupt flags, by which class of kfunc.
    Irq {
        lock: bool,
    },
    /// Address of a subprogram.
    Subprog(u32),
}

/// Packet range after a comparison that proved equality with the packet's end.
pub(crate) const AT_PKT_END: i32 = -1;
/// Packet range after a comparison that proved a pointer to lie beyond the packet's end.
pub(crate) const BEYOND_PKT_END: i32 = -2;

/// Bits of [`Reg::id`] that say: this scalar is another one of the same id plus the constant in `off`.
pub(crate) const ADD_CONST: u32 = ADD_CONST64 | ADD_CONST32;
/// The sum is one of 64 bits.
pub(crate) const ADD_CONST64: u32 = 1 << 31;
/// The sum is one of 32 bits, zero-extended.
pub(crate) const ADD_CONST32: u32 = 1 << 30;

/// Everything known of a register.
#[doc(alias = "bpf_reg_state")]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Reg {
    pub(crate) ty: RegType,
    /// Fixed part of a pointer's offset; for scalars the delta of [`ADD_CONST`].
    pub(crate) off: i32,
    pub(crate) pl: Payload,
    /// Bits of a scalar's value or of a pointer's variable offset.
    pub(crate) var_off: Tnum,
    pub(crate) smin: i64,
    pub(crate) smax: i64,
    pub(crate) umin: u64,
    pub(crate) umax: u64,
    pub(crate) s32_min: i32,
    pub(crate) s32_max: i32,
    pub(crate) u32_min: u32,
    pub(crate) u32_max: u32,
    /// Registers of one id hold the same value, or are pointers found equal in some respect.
    pub(crate) id: u32,
    /// Reference that this pointer belongs to.
    pub(crate) ref_obj_id: u32,
    /// Frame that a stack pointer points into.
    pub(crate) frameno: u32,
    /// The exact value mattered to some later decision.
    pub(crate) precise: bool,
}

impl Reg {
    /// A register that was never written.
    pub(crate) const NOT_INIT: Self = Self { ty: RegType::NOT_INIT, ..Self::UNKNOWN };

    /// A scalar of which nothing is known.
    pub(crate) const UNKNOWN: Self = Self {
        ty: RegType::SCALAR,
        off: 0,
        pl: Payload::None,
        var_off: Tnum::UNKNOWN,
        smin: i64::MIN,
        smax: i64::MAX,
        umin: 0,
        umax: u64::MAX,
        s32_min: i32::MIN,
        s32_max: i32::MAX,
        u32_min: 0,
        u32_max: u32::MAX,
        id: 0,
        ref_obj_id: 0,
        frameno: 0,
        precise: false,
    };

    /// A known scalar.
    pub(crate) fn scalar(v: u64) -> Self {
        let mut r = Self::UNKNOWN;
        r.set_const(v);
        r
    }

    /// A pointer of a kind at offset 0.
    pub(crate) fn pointer(ty: RegType, pl: Payload) -> Self {
        let mut r = Self::scalar(0);
        r.ty = ty;
        r.pl = pl;
        r
    }

    /// Makes the variable part the constant `v`; kind, ids and offset stay.
    pub(crate) fn set_const(&mut self, v: u64) {
        self.var_off = Tnum::constant(v);
        (self.smin, self.smax) = (v as i64, v as i64);
        (self.umin, self.umax) = (v, v);
        (self.s32_min, self.s32_max) = (v as i32, v as i32);
        (self.u32_min, self.u32_max) = (v as u32, v as u32);
    }

    /// Makes the value the constant `v` and forgets offset, payload and ids; the kind stays.
    pub(crate) fn mark_known(&mut self, v: u64) {
        self.off = 0;
        self.pl = Payload::None;
        self.id = 0;
        self.ref_obj_id = 0;
        self.set_const(v);
    }

    pub(crate) fn is_scalar(&self) -> bool {
        self.ty == RegType::SCALAR
    }

    /// Known to be the scalar 0.
    pub(crate) fn is_null(&self) -> bool {
        self.is_scalar() && self.var_off.equals_const(0)
    }

    /// Whether the value (or its low half) is one constant.
    pub(crate) fn is_const(&self, subreg: bool) -> bool {
        self.is_scalar() && if subreg { self.var_off.subreg_is_const() } else { self.var_off.is_const() }
    }

    /// The constant, where [`Self::is_const`].
    pub(crate) fn const_value(&self, subreg: bool) -> u64 {
        if subreg { u64::from(self.var_off.value as u32) } else { self.var_off.value }
    }

    pub(crate) fn is_pkt_pointer(&self) -> bool {
        self.ty.is_pkt_pointer()
    }

    /// Any pointer into or at the end of the packet.
    pub(crate) fn is_pkt_pointer_any(&self) -> bool {
        self.is_pkt_pointer() || self.ty == RegType::PACKET_END
    }

    /// Memory that is a slice of a packet's dynptr.
    pub(crate) fn is_dynptr_slice_pkt(&self) -> bool {
        self.ty.base() == RegType::MEM
            && self.ty.has(flag::DYNPTR_SKB | flag::DYNPTR_XDP | flag::DYNPTR_SKB_META)
    }

    /// A packet pointer of a kind as it came from the context, not moved.
    pub(crate) fn is_init_pkt_pointer(&self, which: RegType) -> bool {
        self.ty == which && self.id == 0 && self.off == 0 && self.var_off.equals_const(0)
    }

    pub(crate) fn range(&self) -> i32 {
        if let Payload::Range(r) = self.pl { r } else { 0 }
    }

    /// Index of the map in the map table.
    pub(crate) fn map(&self) -> usize {
        if let Payload::Map { map, .. } = self.pl { map as usize } else { 0 }
    }

    pub(crate) fn map_uid(&self) -> u32 {
        if let Payload::Map { uid, .. } = self.pl { uid } else { 0 }
    }

    pub(crate) fn btf(&self) -> (BtfRef, u32) {
        match self.pl {
            Payload::Btf { btf, id } => (btf, id),
            _ => (BtfRef::Kernel, 0),
        }
    }

    pub(crate) fn btf_id(&self) -> u32 {
        self.btf().1
    }

    pub(crate) fn mem_size(&self) -> u32 {
        if let Payload::Mem { size, .. } = self.pl { size } else { 0 }
    }

    pub(crate) fn dynptr_id(&self) -> u32 {
        if let Payload::Mem { dynptr_id, .. } = self.pl { dynptr_id } else { 0 }
    }

    pub(crate) fn dynptr_type(&self) -> DynptrType {
        if let Payload::Dynptr { ty, .. } = self.pl { ty } else { DynptrType::Invalid }
    }

    pub(crate) fn dynptr_first(&self) -> bool {
        matches!(self.pl, Payload::Dynptr { first_slot: true, .. })
    }

    /// Bits needed for the largest unsigned value.
    pub(crate) fn width(&self) -> u32 {
        64 - self.umax.leading_zeros()
    }
}
