//! An assembler for the part of x86-64 that compiled programs use. No unsafe code: it makes bytes.
//!
//! [`Asm`] writes instructions into two streams, the usual path and the rare one, so that rare code can
//! be written where it comes up and still lie elsewhere. Jumps, calls and function ends are kept as
//! [`Item`]s and get their size in [`Asm::link`], when distances are known.

mod encode;
mod link;
mod operand;
#[cfg(test)]
mod tests;

pub(crate) use link::Frame;
pub(crate) use operand::{Alu, Cond, Gpr, Mem, Shift, Size, Unary, Width};

/// A place in the code, to be bound once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label(u32);

/// Where a label is: `item` is the number of items before it in its stream.
#[derive(Clone, Copy, Debug)]
struct Place {
    cold: bool,
    pos: u32,
    item: u32,
}

/// Something whose bytes are known at the end. It takes no room in the stream before.
#[derive(Clone, Copy, Debug)]
struct Item {
    pos: u32,
    kind: ItemKind,
}

#[derive(Clone, Copy, Debug)]
enum ItemKind {
    Jmp(Label),
    Jcc(Cond, Label),
    Call(Label),
    /// Of code elsewhere, by address.
    CallAddr(u64),
    /// Address of a label into a register.
    Lea(Gpr, Label),
    /// Begin of the function of this number: its registers are saved, its frame is made.
    Enter(u32),
    /// The same undone, without the return.
    Leave(u32),
    /// Padding up to a multiple of 2^n bytes.
    Align(u8),
}

#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    len: usize,
    items: Vec<Item>,
}

/// Code in the making.
#[derive(Debug, Default)]
pub(crate) struct Asm {
    out: Stream,
    other: Stream,
    in_cold: bool,
    labels: Vec<Option<Place>>,
    /// From where on code is of which instruction, or of none; in the order in which it was made.
    marks: Vec<(Place, Option<u32>)>,
}

/// Longest instruction with room to write it in one piece, bytes.
const SLOT: usize = 16;

impl Asm {
    /// An empty one with room for `n` bytes.
    pub(crate) fn with_capacity(n: usize) -> Self {
        let stream = |n| Stream { bytes: vec![0; n + SLOT], len: 0, items: Vec::with_capacity(n / 16) };
        Self {
            out: stream(n),
            other: stream(n / 4),
            in_cold: false,
            labels: Vec::with_capacity(n / 16),
            marks: Vec::new(),
        }
    }

    /// A label that is not bound yet.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() as u32 - 1)
    }

    fn place_here(&self) -> Place {
        Place { cold: self.in_cold, pos: self.out.len as u32, item: self.out.items.len() as u32 }
    }

    /// From here on code is of an instruction of the program, or of none.
    pub(crate) fn mark(&mut self, insn: Option<u32>) {
        let place = self.place_here();
        self.marks.push((place, insn));
    }

    /// What the last mark said.
    pub(crate) fn marked(&self) -> Option<Option<u32>> {
        self.marks.last().map(|m| m.1)
    }

    /// Binds a label to this place.
    pub(crate) fn bind(&mut self, label: Label) {
        let place = self.place_here();
        let old = self.labels[label.0 as usize].replace(place);
        debug_assert!(old.is_none(), "a label is bound once");
    }

    /// Whether instructions go to the rare stream.
    pub(crate) fn in_cold(&self) -> bool {
        self.in_cold
    }

    /// Goes on in the usual (`false`) or the rare stream (`true`). Streams are not connected: each piece of
    /// the rare one ends with a jump.
    pub(crate) fn switch(&mut self, cold: bool) {
        if cold != self.in_cold {
            std::mem::swap(&mut self.out, &mut self.other);
            self.in_cold = cold;
        }
    }

    /// Where the next instruction goes; the same as before only if there was none since.
    pub(crate) fn here(&self) -> (bool, usize, usize) {
        (self.in_cold, self.out.len, self.out.items.len())
    }

    fn item(&mut self, kind: ItemKind) {
        self.out.items.push(Item { pos: self.out.len as u32, kind });
    }

    /// `jmp`.
    pub(crate) fn jmp(&mut self, to: Label) {
        self.item(ItemKind::Jmp(to));
    }

    /// `jcc`.
    pub(crate) fn jcc(&mut self, cond: Cond, to: Label) {
        self.item(ItemKind::Jcc(cond, to));
    }

    /// `call` of a function of this code.
    pub(crate) fn call(&mut self, to: Label) {
        self.item(ItemKind::Call(to));
    }

    /// `call` of a function elsewhere.
    pub(crate) fn call_addr(&mut self, addr: u64) {
        self.item(ItemKind::CallAddr(addr));
    }

    /// `lea reg, [rip + label]`.
    pub(crate) fn lea_label(&mut self, reg: Gpr, label: Label) {
        self.item(ItemKind::Lea(reg, label));
    }

    /// Begin of a function, see [`Frame`].
    pub(crate) fn enter(&mut self, function: u32) {
        self.item(ItemKind::Enter(function));
    }

    /// End of a function, before `ret` or a jump to another one.
    pub(crate) fn leave(&mut self, function: u32) {
        self.item(ItemKind::Leave(function));
    }

    /// Pads with instructions that do nothing up to a multiple of `2^log2` bytes, at most 16.
    pub(crate) fn align(&mut self, log2: u8) {
        debug_assert!(log2 <= 4);
        self.item(ItemKind::Align(log2));
    }

    #[inline]
    fn put(&mut self, bytes: [u8; SLOT], len: usize) {
        let at = self.out.len;
        if at + SLOT > self.out.bytes.len() {
            self.grow();
        }
        self.out.bytes[at..at + SLOT].copy_from_slice(&bytes);
        self.out.len = at + len;
    }

    #[cold]
    fn grow(&mut self) {
        let len = (self.out.bytes.len() * 2).max(1024);
        self.out.bytes.resize(len, 0);
    }
}
