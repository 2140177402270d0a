//! [`QueueStack`]: `BPF_MAP_TYPE_QUEUE` and `BPF_MAP_TYPE_STACK`.

use mem::{SharedSlice, Slab, SpinLock};
use uapi::Errno;
use uapi::bpf::*;

use super::{Bytes, CreateError, MapContext, MapDef, round8};

/// Values in a ring under a lock: programs get copies.
///
/// Kernel: `kernel/bpf/queue_stack_maps.c, v6.18`
#[derive(Debug)]
pub(super) struct QueueStack {
    values: Slab,
    value_size: usize,
    lifo: bool,
    ends: SpinLock<Ends>,
}

/// Where the next value goes, and how many there are.
#[derive(Debug, Default)]
struct Ends {
    head: usize,
    len: usize,
}

/// Whether a value is taken or only looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Take {
    Pop,
    Peek,
}

impl QueueStack {
    pub(super) fn new(def: &MapDef, cx: &MapContext) -> Result<Self, CreateError> {
        Ok(Self {
            values: super::slab(def.max_entries as usize, round8(def.value_size), 64, cx)?,
            value_size: def.value_size as usize,
            lifo: def.map_type == MapType::Stack,
            ends: SpinLock::default(),
        })
    }

    fn value(&self, at: usize) -> SharedSlice<'_> {
        self.values.slot(at).get(0, self.value_size).expect("a value fits its place")
    }

    /// `BPF_EXIST` makes room by dropping the oldest value.
    #[inline]
    pub(super) fn push(&self, value: Bytes<'_>, flags: u64) -> Result<(), Errno> {
        if flags & BPF_NOEXIST != 0 || flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let (value, capacity) = (value.part(0, self.value_size), self.values.count());
        self.ends.with(|ends| {
            if ends.len == capacity {
                if flags != BPF_EXIST {
                    return Err(Errno::E2BIG);
                }
                ends.len -= 1;
            }
            match value {
                Bytes::Own(b) => self.value(ends.head).copy_from(0, b),
                Bytes::Shared(b) => self.value(ends.head).copy_words_from(b),
            }
            ends.head = if ends.head + 1 == capacity { 0 } else { ends.head + 1 };
            ends.len += 1;
            Ok(())
        })
    }

    /// Copies the next value to `dst`, or zeroes it if there is none.
    #[inline]
    pub(super) fn take(&self, how: Take, dst: SharedSlice<'_>) -> Result<(), Errno> {
        let capacity = self.values.count();
        self.ends.with(|ends| {
            if ends.len == 0 {
                dst.fill(0, self.value_size.min(dst.len()), 0);
                return Err(Errno::ENOENT);
            }
            let back = if self.lifo { 1 } else { ends.len };
            // No division, which would take longer than all the rest.
            let at = if ends.head >= back { ends.head - back } else { ends.head + capacity - back };
            dst.copy_words_from(self.value(at));
            if how == Take::Pop {
                ends.len -= 1;
                if self.lifo {
                    ends.head = at;
                }
            }
            Ok(())
        })
    }
}
