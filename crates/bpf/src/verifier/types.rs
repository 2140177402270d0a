//! Kinds of registers, arguments and results, as base kind plus flags.
//!
//! [`RegType`] is what a register holds, [`ArgType`] what a helper wants, [`RetType`] what it gives.
//! All three share the flag bits of [`flag`], so that a flag can be carried from one to another.

/// Flag bits above the base kind (the low eight bits).
pub(crate) mod flag {
    pub(crate) const PTR_MAYBE_NULL: u32 = 1 << 8;
    pub(crate) const MEM_RDONLY: u32 = 1 << 9;
    pub(crate) const MEM_RINGBUF: u32 = 1 << 10;
    pub(crate) const MEM_USER: u32 = 1 << 11;
    pub(crate) const MEM_PERCPU: u32 = 1 << 12;
    pub(crate) const OBJ_RELEASE: u32 = 1 << 13;
    pub(crate) const PTR_UNTRUSTED: u32 = 1 << 14;
    pub(crate) const MEM_UNINIT: u32 = 1 << 15;
    pub(crate) const DYNPTR_LOCAL: u32 = 1 << 16;
    pub(crate) const DYNPTR_RINGBUF: u32 = 1 << 17;
    pub(crate) const MEM_FIXED_SIZE: u32 = 1 << 18;
    pub(crate) const MEM_ALLOC: u32 = 1 << 19;
    pub(crate) const PTR_TRUSTED: u32 = 1 << 20;
    pub(crate) const MEM_RCU: u32 = 1 << 21;
    pub(crate) const NON_OWN_REF: u32 = 1 << 22;
    pub(crate) const DYNPTR_SKB: u32 = 1 << 23;
    pub(crate) const DYNPTR_XDP: u32 = 1 << 24;
    pub(crate) const MEM_ALIGNED: u32 = 1 << 25;
    pub(crate) const MEM_WRITE: u32 = 1 << 26;
    pub(crate) const DYNPTR_SKB_META: u32 = 1 << 27;
    pub(crate) const DYNPTR_MASK: u32 =
        DYNPTR_LOCAL | DYNPTR_RINGBUF | DYNPTR_SKB | DYNPTR_XDP | DYNPTR_SKB_META;
}

const BASE_MASK: u32 = 0xff;

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($konst:ident = $n:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub(crate) struct $name(pub(crate) u32);

        #[allow(dead_code)]
        impl $name {
            $(pub(crate) const $konst: Self = Self($n);)*

            /// The kind without flags.
            pub(crate) const fn base(self) -> Self {
                Self(self.0 & BASE_MASK)
            }

            /// The flags without the kind.
            pub(crate) const fn flags(self) -> u32 {
                self.0 & !BASE_MASK
            }

            /// The same with further flags.
            pub(crate) const fn with(self, flags: u32) -> Self {
                Self(self.0 | flags)
            }

            /// The same with flags removed.
            pub(crate) const fn without(self, flags: u32) -> Self {
                Self(self.0 & !flags)
            }

            /// Whether any of the flags is set.
            pub(crate) const fn has(self, flags: u32) -> bool {
                self.0 & flags != 0
            }

            /// Whether null is possible.
            pub(crate) const fn may_be_null(self) -> bool {
                self.has(flag::PTR_MAYBE_NULL)
            }
        }
    };
}

kinds! {
    /// What a register holds (`enum bpf_reg_type`).
    RegType {
        NOT_INIT = 0;
        SCALAR = 1;
        CTX = 2;
        MAP_PTR = 3;
        MAP_VALUE = 4;
        MAP_KEY = 5;
        STACK = 6;
        PACKET_META = 7;
        PACKET = 8;
        PACKET_END = 9;
        FLOW_KEYS = 10;
        SOCKET = 11;
        SOCK_COMMON = 12;
        TCP_SOCK = 13;
        TP_BUFFER = 14;
        XDP_SOCK = 15;
        BTF_ID = 16;
        MEM = 17;
        ARENA = 18;
        BUF = 19;
        FUNC = 20;
        DYNPTR = 21;
    }
}

kinds! {
    /// What a helper's argument has to be (`enum bpf_arg_type`).
    ArgType {
        DONTCARE = 0;
        CONST_MAP_PTR = 1;
        PTR_TO_MAP_KEY = 2;
        PTR_TO_MAP_VALUE = 3;
        PTR_TO_MEM = 4;
        PTR_TO_ARENA = 5;
        CONST_SIZE = 6;
        CONST_SIZE_OR_ZERO = 7;
        PTR_TO_CTX = 8;
        ANYTHING = 9;
        PTR_TO_SPIN_LOCK = 10;
        PTR_TO_SOCK_COMMON = 11;
        PTR_TO_SOCKET = 12;
        PTR_TO_BTF_ID = 13;
        PTR_TO_RINGBUF_MEM = 14;
        CONST_ALLOC_SIZE_OR_ZERO = 15;
        PTR_TO_BTF_ID_SOCK_COMMON = 16;
        PTR_TO_PERCPU_BTF_ID = 17;
        PTR_TO_FUNC = 18;
        PTR_TO_STACK = 19;
        PTR_TO_CONST_STR = 20;
        PTR_TO_TIMER = 21;
        KPTR_XCHG_DEST = 22;
        PTR_TO_DYNPTR = 23;
    }
}

kinds! {
    /// What a helper returns (`enum bpf_return_type`).
    RetType {
        INTEGER = 0;
        VOID = 1;
        PTR_TO_MAP_VALUE = 2;
        PTR_TO_SOCKET = 3;
        PTR_TO_TCP_SOCK = 4;
        PTR_TO_SOCK_COMMON = 5;
        PTR_TO_MEM = 6;
        PTR_TO_MEM_OR_BTF_ID = 7;
        PTR_TO_BTF_ID = 8;
    }
}

impl RegType {
    /// Packet or metadata pointers, which carry a range.
    pub(crate) fn is_pkt_pointer(self) -> bool {
        let t = self.base();
        t == Self::PACKET || t == Self::PACKET_META
    }

    /// Socket pointers of the old, BTF-less kind.
    pub(crate) fn is_sk_pointer(self) -> bool {
        matches!(self, Self::SOCKET | Self::SOCK_COMMON | Self::TCP_SOCK | Self::XDP_SOCK)
    }

    /// An object that the program allocated, owned or borrowed.
    pub(crate) fn is_ptr_alloc_obj(self) -> bool {
        self.base() == Self::BTF_ID && self.has(flag::MEM_ALLOC)
    }

    /// A borrowed reference to a node in a collection.
    pub(crate) fn is_non_owning_ref(self) -> bool {
        self.is_ptr_alloc_obj() && self.has(flag::NON_OWN_REF)
    }

    /// The kernel's word for it in logs and errors.
    pub(crate) fn text(self) -> String {
        let base = match self.base() {
            Self::NOT_INIT => "?",
            Self::SCALAR => "scalar",
            Self::CTX => "ctx",
            Self::MAP_PTR => "map_ptr",
            Self::MAP_VALUE => "map_value",
            Self::STACK => "fp",
            Self::PACKET => "pkt",
            Self::PACKET_META => "pkt_meta",
            Self::PACKET_END => "pkt_end",
            Self::FLOW_KEYS => "flow_keys",
            Self::SOCKET => "sock",
            Self::SOCK_COMMON => "sock_common",
            Self::TCP_SOCK => "tcp_sock",
            Self::TP_BUFFER => "tp_buffer",
            Self::XDP_SOCK => "xdp_sock",
            Self::BTF_ID => "ptr_",
            Self::MEM => "mem",
            Self::ARENA => "arena",
            Self::BUF => "buf",
            Self::FUNC => "func",
            Self::MAP_KEY => "map_key",
            Self::DYNPTR => "dynptr_ptr",
            _ => "?",
        };
        let postfix = match (self.may_be_null(), self.base()) {
            (true, Self::BTF_ID) => "or_null_",
            (true, _) => "_or_null",
            _ => "",
        };
        let prefixes = [
            (flag::MEM_RDONLY, "rdonly_"),
            (flag::MEM_RINGBUF, "ringbuf_"),
            (flag::MEM_USER, "user_"),
            (flag::MEM_PERCPU, "percpu_"),
            (flag::MEM_RCU, "rcu_"),
            (flag::PTR_UNTRUSTED, "untrusted_"),
            (flag::PTR_TRUSTED, "trusted_"),
        ];
        let mut out = String::new();
        for (bit, text) in prefixes {
            if self.has(bit) {
                out.push_str(text);
            }
        }
        out + base + postfix
    }
}
