//! Putting streams together: sizes of jumps, padding, distances.
//!
//! Every jump starts long. A jump whose target is near even so becomes short, which only brings other
//! targets nearer; two passes find nearly all. Nothing is searched: a label knows how many items lie
//! before it, so its address is its offset plus the bytes of those items.

use super::{Asm, Cond, Gpr, Item, ItemKind, Label, Place, Stream};

/// What surrounds a function's body, as machine code.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    /// Saves registers and makes room on the stack.
    pub(crate) enter: Vec<u8>,
    /// Undoes it, up to the return address.
    pub(crate) leave: Vec<u8>,
}

/// Finished code.
#[derive(Debug)]
pub(crate) struct Linked {
    /// To be placed at the address that it was linked for.
    pub(crate) bytes: Vec<u8>,
    /// Ascending offsets from which on code is of an instruction, or of none.
    pub(crate) marks: Vec<(u32, Option<u32>)>,
    places: Layout,
    labels: Vec<Option<Place>>,
}

impl Linked {
    /// Where a bound label is, bytes from the start.
    pub(crate) fn offset(&self, label: Label) -> Option<u32> {
        self.labels[label.0 as usize].map(|p| self.places.offset(p))
    }
}

/// A call whose target is too far for a direct call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfReach;

const SHORT: u8 = 2;
const NEAR_JMP: u8 = 5;
const NEAR_JCC: u8 = 6;
const LEA: u8 = 7;

/// Bytes of every item, and their sums.
#[derive(Debug)]
struct Layout {
    /// Items of the usual stream.
    hot_items: usize,
    /// Bytes of the usual stream without items.
    hot_bytes: u32,
    sizes: Vec<u32>,
    /// Bytes of all items before; one more than there are items.
    before: Vec<u32>,
}

impl Layout {
    fn index(&self, cold: bool, item: u32) -> usize {
        item as usize + if cold { self.hot_items } else { 0 }
    }

    fn offset(&self, p: Place) -> u32 {
        let base = if p.cold { self.hot_bytes } else { 0 };
        base + p.pos + self.before[self.index(p.cold, p.item)]
    }

    fn sum(&mut self) {
        let mut n = 0;
        for (before, size) in self.before.iter_mut().zip(&self.sizes) {
            *before = n;
            n += size;
        }
        if let Some(last) = self.before.last_mut() {
            *last = n;
        }
    }
}

impl Asm {
    /// Most bytes that [`Asm::link`] can answer.
    pub(crate) fn max_len(&self, frames: &[Frame]) -> usize {
        let stream =
            |s: &Stream| s.len + s.items.iter().map(|i| largest(i.kind, frames) as usize).sum::<usize>();
        stream(&self.out) + stream(&self.other)
    }

    /// The code as it has to be at address `base`. Every label that is used must be bound.
    ///
    /// # Errors
    ///
    /// [`OutOfReach`] if a function elsewhere is farther than 2 GiB.
    pub(crate) fn link(mut self, frames: &[Frame], base: u64) -> Result<Linked, OutOfReach> {
        self.switch(false);
        let (hot, cold) = (&self.out, &self.other);
        let items: Vec<Item> = hot.items.iter().chain(&cold.items).copied().collect();
        let mut layout = Layout {
            hot_items: hot.items.len(),
            hot_bytes: hot.len as u32,
            sizes: items.iter().map(|i| largest(i.kind, frames)).collect(),
            before: vec![0; items.len() + 1],
        };
        layout.sum();
        for _ in 0..2 {
            self.shorten(&items, &mut layout);
        }
        pad(&items, &mut layout);
        let mut bytes = Vec::with_capacity(hot.len + cold.len + *layout.before.last().unwrap_or(&0) as usize);
        let linker = Linker { asm: &self, layout: &layout, frames, base };
        linker.stream(hot, 0, &mut bytes)?;
        linker.stream(cold, layout.hot_items, &mut bytes)?;
        let mut marks: Vec<_> = self.marks.iter().map(|(p, insn)| (layout.offset(*p), *insn)).collect();
        // The last of several at one place counts.
        marks.reverse();
        marks.sort_by_key(|m| m.0);
        marks.dedup_by_key(|m| m.0);
        Ok(Linked { bytes, places: layout, labels: self.labels, marks })
    }

    fn place(&self, label: Label) -> Place {
        self.labels[label.0 as usize].expect("a label that is used is bound")
    }

    /// Offset of an item's first byte.
    fn item_offset(&self, k: usize, item: &Item, layout: &Layout) -> u32 {
        let base = if k >= layout.hot_items { layout.hot_bytes } else { 0 };
        base + item.pos + layout.before[k]
    }

    /// Whether nothing but padding lies between an item and a label: then it is as well to run through it.
    fn is_padding_to(&self, to: Label, items: &[Item], k: usize, layout: &Layout) -> bool {
        let place = self.place(to);
        let end = layout.index(place.cold, place.item);
        let same_stream = place.cold == (k >= layout.hot_items);
        let padding = |i: &Item| matches!(i.kind, ItemKind::Align(_)) && i.pos == place.pos;
        same_stream && items[k].pos == place.pos && end > k && items[k + 1..end].iter().all(padding)
    }

    fn shorten(&self, items: &[Item], layout: &mut Layout) {
        for (k, item) in items.iter().enumerate() {
            let (ItemKind::Jmp(to) | ItemKind::Jcc(_, to)) = item.kind else { continue };
            let size = layout.sizes[k];
            let end = self.item_offset(k, item, layout) + size;
            let distance = i64::from(layout.offset(self.place(to))) - i64::from(end);
            let only_padding =
                matches!(item.kind, ItemKind::Jmp(_)) && self.is_padding_to(to, items, k, layout);
            if only_padding {
                layout.sizes[k] = 0;
            } else if size > u32::from(SHORT) && (-128..128).contains(&distance) {
                layout.sizes[k] = u32::from(SHORT);
            }
        }
        layout.sum();
    }
}

/// Gives padding its real size. It was counted at its largest, so no short jump gets too far.
fn pad(items: &[Item], layout: &mut Layout) {
    let mut n = 0;
    for (k, item) in items.iter().enumerate() {
        layout.before[k] = n;
        if let ItemKind::Align(log2) = item.kind {
            let base = if k >= layout.hot_items { layout.hot_bytes } else { 0 };
            let at = base + item.pos + n;
            layout.sizes[k] = at.next_multiple_of(1 << log2) - at;
        }
        n += layout.sizes[k];
    }
    if let Some(last) = layout.before.last_mut() {
        *last = n;
    }
}

fn largest(kind: ItemKind, frames: &[Frame]) -> u32 {
    match kind {
        ItemKind::Jmp(_) | ItemKind::Call(_) | ItemKind::CallAddr(_) => u32::from(NEAR_JMP),
        ItemKind::Jcc(..) => u32::from(NEAR_JCC),
        ItemKind::Lea(..) => u32::from(LEA),
        ItemKind::Enter(f) => frames[f as usize].enter.len() as u32,
        ItemKind::Leave(f) => frames[f as usize].leave.len() as u32,
        ItemKind::Align(log2) => (1 << log2) - 1,
    }
}

struct Linker<'a> {
    asm: &'a Asm,
    layout: &'a Layout,
    frames: &'a [Frame],
    base: u64,
}

impl Linker<'_> {
    fn stream(&self, s: &Stream, first: usize, out: &mut Vec<u8>) -> Result<(), OutOfReach> {
        let mut from = 0;
        for (k, item) in s.items.iter().enumerate() {
            out.extend_from_slice(&s.bytes[from..item.pos as usize]);
            from = item.pos as usize;
            self.item(item.kind, self.layout.sizes[first + k], out)?;
        }
        out.extend_from_slice(&s.bytes[from..s.len]);
        Ok(())
    }

    fn item(&self, kind: ItemKind, size: u32, out: &mut Vec<u8>) -> Result<(), OutOfReach> {
        let end = out.len() as i64 + i64::from(size);
        let distance = |to: Label| i64::from(self.layout.offset(self.asm.place(to))) - end;
        match kind {
            ItemKind::Jmp(_) if size == 0 => {}
            ItemKind::Jmp(to) if size == u32::from(SHORT) => out.extend([0xeb, distance(to) as u8]),
            ItemKind::Jmp(to) => near(&[0xe9], distance(to), out)?,
            ItemKind::Jcc(c, to) => jcc(c, distance(to), size, out)?,
            ItemKind::Call(to) => near(&[0xe8], distance(to), out)?,
            ItemKind::CallAddr(addr) => {
                let from = self.base.wrapping_add(end as u64);
                near(&[0xe8], addr.wrapping_sub(from) as i64, out)?;
            }
            ItemKind::Lea(reg, to) => lea(reg, distance(to), out)?,
            ItemKind::Enter(f) => out.extend_from_slice(&self.frames[f as usize].enter),
            ItemKind::Leave(f) => out.extend_from_slice(&self.frames[f as usize].leave),
            ItemKind::Align(_) => out.extend_from_slice(nops(size as usize)),
        }
        Ok(())
    }
}

fn near(opcode: &[u8], distance: i64, out: &mut Vec<u8>) -> Result<(), OutOfReach> {
    let distance = i32::try_from(distance).map_err(|_| OutOfReach)?;
    out.extend_from_slice(opcode);
    out.extend_from_slice(&distance.to_le_bytes());
    Ok(())
}

fn jcc(cond: Cond, distance: i64, size: u32, out: &mut Vec<u8>) -> Result<(), OutOfReach> {
    if size == u32::from(SHORT) {
        out.extend([0x70 | cond.n(), distance as u8]);
        return Ok(());
    }
    near(&[0x0f, 0x80 | cond.n()], distance, out)
}

fn lea(reg: Gpr, distance: i64, out: &mut Vec<u8>) -> Result<(), OutOfReach> {
    let rex = 0x48 | (reg.n() >> 3) << 2;
    near(&[rex, 0x8d, (reg.n() & 7) << 3 | 5], distance, out)
}

/// One to two instructions of the recommended forms that do nothing.
fn nops(n: usize) -> &'static [u8] {
    const NOPS: [&[u8]; 16] = [
        &[],
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
        &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
        &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
        &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00, 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00, 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
        &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    ];
    NOPS.get(n).copied().unwrap_or(&[])
}
