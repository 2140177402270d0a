//! Special fields of values: what a `struct bpf_spin_lock`, `bpf_timer`, kptr and the like in a map's value
//! mean for copies.

use std::sync::atomic::{AtomicU32, Ordering::*};

use mem::SharedSlice;

/// A field of a value that user space can neither read nor write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SpecialField {
    /// Where it is in the value, bytes.
    pub offset: u32,
    /// What it is.
    pub kind: FieldKind,
}

/// Kinds of special fields.
///
/// Kernel: `include/linux/bpf.h enum btf_field_type, v6.18`
#[doc(alias = "btf_field_type")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum FieldKind {
    /// `struct bpf_spin_lock`.
    SpinLock,
    /// `struct bpf_res_spin_lock`.
    ResSpinLock,
    /// `struct bpf_timer`.
    Timer,
    /// `struct bpf_wq`.
    Workqueue,
    /// `struct bpf_task_work`.
    TaskWork,
    /// `__kptr_untrusted` pointer.
    KptrUnref,
    /// `__kptr` pointer.
    KptrRef,
    /// `__percpu_kptr` pointer.
    KptrPercpu,
    /// `__uptr` pointer.
    Uptr,
    /// `struct bpf_list_head`.
    ListHead,
    /// `struct bpf_list_node`.
    ListNode,
    /// `struct bpf_rb_root`.
    RbRoot,
    /// `struct bpf_rb_node`.
    RbNode,
    /// `struct bpf_refcount`.
    Refcount,
}

impl FieldKind {
    /// Bytes that a field takes.
    #[must_use]
    pub const fn size(self) -> u32 {
        match self {
            Self::SpinLock | Self::ResSpinLock | Self::Refcount => 4,
            Self::TaskWork => 8,
            Self::KptrUnref | Self::KptrRef | Self::KptrPercpu | Self::Uptr => 8,
            Self::Timer | Self::Workqueue | Self::ListHead | Self::RbRoot => 16,
            Self::ListNode => 24,
            Self::RbNode => 32,
        }
    }

    /// Whether a pointer of the kernel's is kept there.
    pub(crate) const fn is_kptr(self) -> bool {
        matches!(self, Self::KptrUnref | Self::KptrRef | Self::KptrPercpu | Self::Uptr)
    }

    /// The kernel's word.
    #[doc(alias = "btf_field_type_name")]
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::SpinLock => "bpf_spin_lock",
            Self::ResSpinLock => "bpf_res_spin_lock",
            Self::Timer => "bpf_timer",
            Self::Workqueue => "bpf_wq",
            Self::TaskWork => "bpf_task_work",
            Self::KptrUnref | Self::KptrRef => "kptr",
            Self::KptrPercpu => "percpu_kptr",
            Self::Uptr => "uptr",
            Self::ListHead => "bpf_list_head",
            Self::ListNode => "bpf_list_node",
            Self::RbRoot => "bpf_rb_root",
            Self::RbNode => "bpf_rb_node",
            Self::Refcount => "bpf_refcount",
        }
    }

    /// The field that is a struct of this name.
    pub(crate) fn of_struct(name: &str) -> Option<Self> {
        Some(match name {
            "bpf_spin_lock" => Self::SpinLock,
            "bpf_res_spin_lock" => Self::ResSpinLock,
            "bpf_timer" => Self::Timer,
            "bpf_wq" => Self::Workqueue,
            "bpf_task_work" => Self::TaskWork,
            "bpf_list_head" => Self::ListHead,
            "bpf_list_node" => Self::ListNode,
            "bpf_rb_root" => Self::RbRoot,
            "bpf_rb_node" => Self::RbNode,
            "bpf_refcount" => Self::Refcount,
            _ => return None,
        })
    }
}

/// The special fields of a map's value and the plain bytes between them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    fields: Vec<SpecialField>,
    plain: Vec<(usize, usize)>,
    /// Bytes of a value.
    size: usize,
}

/// Bytes to be copied into a value.
#[derive(Clone, Copy, Debug)]
pub enum Bytes<'a> {
    /// Of our own.
    Own(&'a [u8]),
    /// That a program may write at the same time.
    Shared(SharedSlice<'a>),
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Own(bytes)
    }
}

impl<'a> From<SharedSlice<'a>> for Bytes<'a> {
    fn from(bytes: SharedSlice<'a>) -> Self {
        Self::Shared(bytes)
    }
}

impl Bytes<'_> {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Own(b) => b.len(),
            Self::Shared(b) => b.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `dst.len()` bytes from `offset` on out.
    pub fn copy_to(&self, offset: usize, dst: &mut [u8]) {
        match self {
            Self::Own(b) => dst.copy_from_slice(&b[offset..offset + dst.len()]),
            Self::Shared(b) => b.copy_to(offset, dst),
        }
    }

    /// Copies `len` bytes to the same offset of `dst`.
    #[inline(always)]
    fn copy_range(&self, offset: usize, len: usize, dst: SharedSlice<'_>) {
        match self {
            Self::Own(b) => dst.copy_from(offset, &b[offset..offset + len]),
            Self::Shared(b) => {
                let (src, dst) = (b.get(offset, len), dst.get(offset, len));
                let (src, dst) = src.zip(dst).expect("within the bytes");
                dst.copy_words_from(src);
            }
        }
    }

    /// The part from `offset` on of `len` bytes, which must be there.
    pub(super) fn part(self, offset: usize, len: usize) -> Self {
        match self {
            Self::Own(b) => Self::Own(&b[offset..offset + len]),
            Self::Shared(b) => Self::Shared(b.get(offset, len).expect("within the bytes")),
        }
    }
}

impl Record {
    /// The record of a value of `value_size` bytes. Fields must lie within the value and not overlap;
    /// those that do not are answered as an error by their offset.
    ///
    /// # Errors
    ///
    /// The offset of the first field that does not fit.
    pub fn new(fields: &[SpecialField], value_size: u32) -> Result<Self, u32> {
        let mut fields = fields.to_vec();
        fields.sort_by_key(|f| f.offset);
        let (mut plain, mut at) = (Vec::new(), 0_u32);
        for f in &fields {
            let end = f.offset.checked_add(f.kind.size()).filter(|end| *end <= value_size);
            let (true, Some(end)) = (f.offset >= at, end) else { return Err(f.offset) };
            plain.push((at as usize, (f.offset - at) as usize));
            at = end;
        }
        plain.push((at as usize, (value_size - at) as usize));
        plain.retain(|(_, len)| *len > 0);
        Ok(Self { fields, plain, size: value_size as usize })
    }

    /// The fields, by offset.
    #[must_use]
    pub fn fields(&self) -> &[SpecialField] {
        &self.fields
    }

    /// Whether there is a field of a kind.
    #[must_use]
    pub fn has(&self, kind: FieldKind) -> bool {
        self.fields.iter().any(|f| f.kind == kind)
    }

    /// Whether there are no special fields.
    #[must_use]
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.fields.is_empty()
    }

    /// Copies all but the special fields.
    ///
    /// Kernel: `include/linux/bpf.h copy_map_value, v6.18`
    #[inline(always)]
    pub(super) fn copy(&self, src: Bytes<'_>, dst: SharedSlice<'_>) {
        if self.fields.is_empty() {
            return src.copy_range(0, self.size, dst);
        }
        for (offset, len) in &self.plain {
            src.copy_range(*offset, *len, dst);
        }
    }

    /// Zeroes the special fields.
    ///
    /// Kernel: `include/linux/bpf.h bpf_obj_init, v6.18`
    #[inline]
    pub(super) fn init(&self, value: SharedSlice<'_>) {
        for f in &self.fields {
            value.fill(f.offset as usize, f.kind.size() as usize, 0);
        }
    }

    /// A copy for user space, special fields zeroed. With `locked`, taken while no program holds the
    /// value's spin lock.
    ///
    /// Kernel: `kernel/bpf/syscall.c bpf_map_copy_value, v6.18`
    pub(super) fn read(&self, value: SharedSlice<'_>, locked: bool) -> Vec<u8> {
        let mut out = self.with_lock(value, locked, || value.to_vec());
        for f in &self.fields {
            out[f.offset as usize..][..f.kind.size() as usize].fill(0);
        }
        out
    }

    /// Copies into a value while no program holds its spin lock.
    ///
    /// Kernel: `kernel/bpf/helpers.c copy_map_value_locked, v6.18`
    pub(super) fn copy_locked(&self, src: Bytes<'_>, dst: SharedSlice<'_>) {
        self.with_lock(dst, true, || self.copy(src, dst));
    }

    fn with_lock<R>(&self, value: SharedSlice<'_>, locked: bool, f: impl FnOnce() -> R) -> R {
        let lock = locked.then(|| self.spin_lock(value)).flatten();
        if let Some(lock) = lock {
            spin_lock(lock);
        }
        let result = f();
        if let Some(lock) = lock {
            spin_unlock(lock);
        }
        result
    }

    /// The spin lock of a value, if it has one.
    #[must_use]
    pub fn spin_lock<'a>(&self, value: SharedSlice<'a>) -> Option<&'a AtomicU32> {
        let field = self.fields.iter().find(|f| f.kind == FieldKind::SpinLock)?;
        value.atomic_u32(field.offset as usize)
    }
}

/// Takes a `struct bpf_spin_lock`.
///
/// Kernel: `kernel/bpf/helpers.c bpf_spin_lock, v6.18`
#[doc(alias = "bpf_spin_lock")]
pub fn spin_lock(lock: &AtomicU32) {
    let mut turns = 0_u32;
    while lock.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
        turns += 1;
        if turns.is_multiple_of(128) { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// Releases a `struct bpf_spin_lock`.
///
/// Kernel: `kernel/bpf/helpers.c bpf_spin_unlock, v6.18`
#[doc(alias = "bpf_spin_unlock")]
pub fn spin_unlock(lock: &AtomicU32) {
    lock.store(0, Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(offset: u32, kind: FieldKind) -> SpecialField {
        SpecialField { offset, kind }
    }

    #[test]
    fn copies_leave_special_fields_alone() {
        let fields = [field(16, FieldKind::Timer), field(4, FieldKind::SpinLock)];
        let record = Record::new(&fields, 40).unwrap();
        let (src, mut dst) = ([1_u8; 40], [9_u8; 40]);
        record.copy(Bytes::Own(&src), SharedSlice::from_mut(&mut dst));
        let special = |i: usize| (4..8).contains(&i) || (16..32).contains(&i);
        assert!(dst.iter().enumerate().all(|(i, b)| *b == if special(i) { 9 } else { 1 }));
        // A lock of 0x09090909 would never be free.
        let out = record.read(SharedSlice::from_mut(&mut dst), false);
        assert!(out.iter().enumerate().all(|(i, b)| *b == u8::from(!special(i))));
    }

    #[test]
    fn fields_outside_or_on_top_of_each_other_are_refused() {
        assert_eq!(Record::new(&[field(5, FieldKind::SpinLock)], 8), Err(5));
        assert_eq!(Record::new(&[field(u32::MAX, FieldKind::SpinLock)], 8), Err(u32::MAX));
        let two = [field(0, FieldKind::KptrRef), field(4, FieldKind::SpinLock)];
        assert_eq!(Record::new(&two, 16), Err(4));
    }

    /// A resilient lock was taken for 8 bytes once, which forbade the program's own data right behind it.
    #[test]
    fn fields_are_as_large_as_in_the_running_kernel() {
        let Ok(vmlinux) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            eprintln!("SKIPPED: the running kernel has no BTF");
            return;
        };
        let btf = crate::btf::Btf::parse(&vmlinux).unwrap();
        let names = btf.iter().map(|(id, _)| btf.name_of(id)).filter(|n| n.starts_with("bpf_"));
        let mut compared = 0;
        for (name, kind) in names.filter_map(|n| FieldKind::of_struct(n).map(|kind| (n, kind))) {
            let Some(id) = btf.find(name, crate::btf::BtfKind::Struct) else { continue };
            assert_eq!(btf.size_of(id), Some(u64::from(kind.size())), "{name}");
            compared += 1;
        }
        assert!(compared >= 8, "only {compared} compared");
    }

    #[test]
    fn a_locked_copy_waits_for_the_lock() {
        let record = Record::new(&[field(0, FieldKind::SpinLock)], 16).unwrap();
        let slab = mem::Slab::new(1, 16, 8).unwrap();
        let value = slab.slot(0);
        let lock = record.spin_lock(value).unwrap();
        spin_lock(lock);
        std::thread::scope(|s| {
            let copy = s.spawn(|| record.read(slab.slot(0), true));
            value.write_u64(8, 1);
            std::thread::sleep(std::time::Duration::from_millis(5));
            value.write_u64(8, 2);
            spin_unlock(lock);
            assert_eq!(copy.join().unwrap()[8], 2);
        });
        assert_eq!(lock.load(Relaxed), 0);
    }
}
