//! What a trace has loaded and stored so far, and the wide accesses that narrow ones are put together to.
//!
//! Compilers read packets byte by byte, because packet structures are packed: a number comes as loads,
//! shifts and ors. [`MemLog::join`] sees that they read adjacent bytes and loads them at once; a number
//! of network order becomes one load with its bytes reversed. [`MemLog::store`] does the same for
//! copies and for numbers that are stored in pieces. What is wide is made where the last piece is, so
//! nothing that may touch the same bytes may lie between.

use super::asm::{Size, Width};
use super::cfg::granules;
use super::facts::Class;
use super::fold::{fits32, width_bits};
use super::node::{Graph, Id, KEPT, Node, Op, STORES_IMM};
use super::stacklog::{Found, Parts, StackLog};

/// How far back pieces may lie, in accesses.
const WINDOW: usize = 48;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Load,
    Store,
    /// A way out of the trace: stores before it are made before it.
    Exit,
    /// Anything may happen to memory.
    Fence,
    /// A store that became part of another.
    Gone,
}

/// One access.
#[derive(Clone, Copy, Debug)]
struct Access {
    kind: Kind,
    id: Id,
    base: Id,
    disp: i64,
    size: u8,
    class: Class,
}

/// Order of the bytes of a number in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// One byte.
    Either,
    Little,
    Big,
}

/// A value that is `n` bytes of memory shifted to the left by `shift` bits, and zeros.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    base: Id,
    disp: i64,
    n: u8,
    shift: u8,
    order: Order,
    class: Class,
    /// The earliest of the loads that it comes from, in the log.
    oldest: u32,
}

/// A store in the making.
#[derive(Clone, Copy)]
struct Piece {
    base: Id,
    disp: i64,
    class: Class,
    size: u8,
    value: Id,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MemLog {
    log: Vec<Access>,
    stack: StackLog,
    /// Numbers of 3, 5, 6 or 7 bytes that may yet become more.
    partial: Vec<(Id, Bytes)>,
}

impl MemLog {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.log.clear();
        self.stack.clear();
        self.partial.clear();
    }

    /// The value of a load.
    pub(super) fn load(
        &mut self,
        g: &mut Graph,
        size: Size,
        (base, disp, class): (Id, i64, Class),
        escapes: bool,
    ) -> Id {
        if g[base].op == Op::Frame {
            match self.stack.load(g, disp, size.bytes()) {
                Found::Value(value, shift) => return piece(g, value, shift, size.bytes()),
                Found::Parts(parts) => return self.assemble(g, &parts),
                Found::Memory => {}
            }
        } else if escapes && matches!(class, Class::Unknown | Class::Stack) {
            self.stack.keep_all(g);
        }
        self.new_load(g, size, base, disp, class)
    }

    /// A number whose pieces are those of values.
    fn assemble(&mut self, g: &mut Graph, parts: &Parts) -> Id {
        let mut whole = g.konst(0);
        for p in parts.iter() {
            let part = piece(g, p.value, p.shift, p.bytes);
            let placed = g.bin_imm(Op::Shl, Width::W64, part, u64::from(p.at) * 8);
            let joined = self.join(g, Op::Or, Width::W64, whole, placed);
            whole = joined.unwrap_or_else(|| g.bin(Op::Or, Width::W64, whole, placed));
        }
        whole
    }

    fn new_load(&mut self, g: &mut Graph, size: Size, base: Id, disp: i64, class: Class) -> Id {
        let id = g.load(size, base, disp, class);
        g[id].aux = self.log.len() as u32;
        self.log.push(Access { kind: Kind::Load, id, base, disp, size: size.bytes(), class });
        id
    }

    /// A store of the lowest bytes of a value.
    pub(super) fn store(
        &mut self,
        g: &mut Graph,
        size: Size,
        (base, disp, class): (Id, i64, Class),
        value: Id,
        escapes: bool,
    ) {
        let mut piece = Piece { base, disp, class, size: size.bytes(), value };
        while piece.size < 8 {
            match self.merge(g, piece) {
                Some(wider) => piece = wider,
                None => break,
            }
        }
        let Piece { base, disp, class, size, value } = piece;
        let mut n = Node::new(Op::Store, Width::W64);
        (n.a, n.imm, n.size, n.mem) = (base, disp, Size::from_bytes(size), class);
        match g.constant(value).and_then(|v| store_immediate(v, size)) {
            Some(imm) => (n.flags, n.aux) = (STORES_IMM, imm as u32),
            None => n.b = stored_part(g, value, size),
        }
        let on_stack = g[base].op == Op::Frame;
        if !on_stack {
            n.flags |= KEPT;
        }
        let id = g.push(n);
        if on_stack {
            self.stack.store(g, (id, value), disp, size);
        } else if escapes && matches!(class, Class::Unknown | Class::Stack) {
            self.stack.stale_all();
        }
        self.log.push(Access { kind: Kind::Store, id, base, disp, size, class });
    }

    /// An access in ways that are not followed further.
    pub(super) fn atomic(&mut self, g: &mut Graph, base: Id, class: Class, escapes: bool) {
        if g[base].op == Op::Frame || (escapes && matches!(class, Class::Unknown | Class::Stack)) {
            self.stack.keep_all(g);
            self.stack.stale_all();
        }
        self.mark(Kind::Fence);
    }

    /// A call, which may read and write any memory that it can name.
    pub(super) fn call(&mut self, g: &mut Graph, escapes: bool) {
        if escapes {
            self.stack.keep_all(g);
            self.stack.stale_all();
        }
        self.mark(Kind::Fence);
    }

    /// Bytes that a call reads.
    pub(super) fn read_by_call(
        &mut self,
        g: &mut Graph,
        (base, disp, class): (Id, i64, Class),
        size: u32,
        escapes: bool,
    ) {
        if g[base].op == Op::Frame {
            self.stack.keep(g, granules(disp, i64::from(size)).0);
        } else if escapes && matches!(class, Class::Unknown | Class::Stack) {
            self.stack.keep_all(g);
        }
    }

    /// Memory other than the stack may have changed.
    pub(super) fn fence(&mut self) {
        self.mark(Kind::Fence);
    }

    /// A way out of the trace to where some of the stack is live.
    pub(super) fn leave(&mut self, g: &mut Graph, live_stack: u128) {
        self.stack.keep(g, live_stack);
        self.mark(Kind::Exit);
    }

    fn mark(&mut self, kind: Kind) {
        let nowhere = Id::NONE;
        self.log.push(Access { kind, id: nowhere, base: nowhere, disp: 0, size: 0, class: Class::Unknown });
    }

    /// Whether bytes that were read since `oldest` cannot be read now instead.
    fn overwritten(&self, g: &Graph, oldest: u32, at: &Access) -> bool {
        let since = &self.log[oldest as usize..];
        since.len() > WINDOW
            || since.iter().any(|a| match a.kind {
                Kind::Fence => true,
                Kind::Store => meets(g, a, at) || (is_shared(at.class) && is_shared(a.class)),
                Kind::Load => is_shared(at.class) && is_shared(a.class) && !within(g, a, at),
                Kind::Exit | Kind::Gone => false,
            })
    }

    /// `a | b`, `a + b` or `a ^ b` as one load, if they are adjacent bytes of memory in their places.
    pub(super) fn join(&mut self, g: &mut Graph, op: Op, w: Width, a: Id, b: Id) -> Option<Id> {
        let (x, y) = (self.bytes_of(g, a, 0)?, self.bytes_of(g, b, 0)?);
        let joined = combine(g, x, y).or_else(|| combine(g, y, x))?;
        if joined.shift + joined.n * 8 > width_bits(w) {
            return None;
        }
        if !joined.n.is_power_of_two() {
            let id = g.bin(op, w, a, b);
            self.partial.push((id, joined));
            return Some(id);
        }
        let id = self.wide_load(g, &joined)?;
        Some(g.bin_imm(Op::Shl, Width::W64, id, u64::from(joined.shift)))
    }

    fn wide_load(&mut self, g: &mut Graph, x: &Bytes) -> Option<Id> {
        let at =
            Access { kind: Kind::Load, id: Id::NONE, base: x.base, disp: x.disp, size: x.n, class: x.class };
        if self.overwritten(g, x.oldest, &at) {
            return None;
        }
        let id = self.new_load(g, Size::from_bytes(x.n), x.base, x.disp, x.class);
        // Its pieces may be older than itself; another join may go on from here.
        g[id].aux = x.oldest;
        Some(if x.order == Order::Big { g.bswap(x.n * 8, id) } else { id })
    }

    /// The bytes of memory that a value is, if it is nothing else.
    fn bytes_of(&self, g: &Graph, id: Id, depth: u8) -> Option<Bytes> {
        let n = &g[id];
        match n.op {
            Op::Load if n.mem != Class::Ctx => {
                let order = if n.size == Size::B { Order::Either } else { Order::Little };
                let (base, disp, class) = (n.a, n.imm, n.mem);
                Some(Bytes { base, disp, n: n.size.bytes(), shift: 0, order, class, oldest: n.aux })
            }
            Op::Bswap if depth < 4 => {
                let x = self.bytes_of(g, n.a, depth + 1)?;
                let whole = i64::from(x.n) * 8 == n.imm && x.shift == 0 && x.order == Order::Little;
                whole.then_some(Bytes { order: Order::Big, ..x })
            }
            Op::Shl if n.b == Id::NONE && n.imm % 8 == 0 && depth < 4 => {
                let x = self.bytes_of(g, n.a, depth + 1)?;
                let shift = x.shift + n.imm as u8;
                (shift + x.n * 8 <= width_bits(n.w)).then_some(Bytes { shift, ..x })
            }
            Op::Or | Op::Add | Op::Xor => {
                self.partial.iter().rev().take(4).find(|(p, _)| *p == id).map(|(_, x)| *x)
            }
            _ => None,
        }
    }

    /// A store and an earlier one of its neighbour as one.
    fn merge(&mut self, g: &mut Graph, new: Piece) -> Option<Piece> {
        let first = self.log.len().saturating_sub(WINDOW / 2);
        for j in (first..self.log.len()).rev() {
            let old = self.log[j];
            match old.kind {
                Kind::Fence | Kind::Exit => return None,
                Kind::Load | Kind::Gone => continue,
                Kind::Store => {}
            }
            let distance = distance(g, (old.base, old.disp), (new.base, new.disp));
            if old.size != new.size
                || old.class != new.class
                || distance.map(i64::abs) != Some(i64::from(new.size))
            {
                continue;
            }
            if self.log[j + 1..].iter().any(|a| blocks_store(g, a, &old)) {
                return None;
            }
            let old_is_low = distance == Some(i64::from(new.size));
            let old_value = stored_value(g, old.id);
            let (low, high) = if old_is_low { (old_value, new.value) } else { (new.value, old_value) };
            let value = self.join_values(g, low, high, new.size)?;
            self.remove(g, j);
            let disp = if old_is_low { new.disp - i64::from(new.size) } else { new.disp };
            return Some(Piece { disp, size: new.size * 2, value, ..new });
        }
        None
    }

    fn remove(&mut self, g: &mut Graph, j: usize) {
        let id = self.log[j].id;
        self.log[j].kind = Kind::Gone;
        g[id].flags &= !KEPT;
        self.stack.remove(id);
    }

    /// A value whose lowest bytes are those of `low`, and the next those of `high`; `size` of each.
    fn join_values(&mut self, g: &mut Graph, low: Id, high: Id, size: u8) -> Option<Id> {
        let bits = size * 8;
        if let (Some(l), Some(h)) = (g.constant(low), g.constant(high)) {
            let mask = (1 << bits) - 1;
            return Some(g.konst((l & mask) | (h & mask) << bits));
        }
        let ((x, k), (y, l)) = (part_of(g, low, bits), part_of(g, high, bits));
        if x == y && l == k + bits && k + 2 * bits <= 64 {
            return Some(g.bin_imm(Op::Shr, Width::W64, x, u64::from(k)));
        }
        if let (Some((x, k)), Some((y, l))) = (reversed_part(g, low, bits), reversed_part(g, high, bits))
            && x == y
            && k == l + bits
        {
            let value = g.bin_imm(Op::Shr, Width::W64, x, u64::from(l));
            return Some(g.bswap(2 * bits, value));
        }
        let (mut x, mut y) = (self.bytes_of(g, low, 0)?, self.bytes_of(g, high, 0)?);
        if x.n != size || y.n != size || x.shift != 0 || y.shift != 0 {
            return None;
        }
        y.shift = bits;
        x.shift = 0;
        let joined = combine(g, x, y)?;
        self.wide_load(g, &joined)
    }
}

/// `bytes` bytes of a value, from a bit on.
fn piece(g: &mut Graph, value: Id, shift: u8, bytes: u8) -> Id {
    let shifted = g.bin_imm(Op::Shr, Width::W64, value, u64::from(shift));
    if matches!(bytes, 1 | 2 | 4 | 8) {
        return g.truncate(bytes * 8, shifted);
    }
    g.bin_imm(Op::And, Width::W64, shifted, (1 << (bytes * 8)) - 1)
}

/// Whether two accesses may touch the same bytes.
fn meets(g: &Graph, a: &Access, b: &Access) -> bool {
    if a.class != b.class && a.class != Class::Unknown && b.class != Class::Unknown {
        return false;
    }
    match distance(g, (a.base, a.disp), (b.base, b.disp)) {
        Some(d) => -i64::from(b.size) < d && d < i64::from(a.size),
        None => true,
    }
}

/// Whether other CPUs may look at such memory, so that the order of accesses is kept.
const fn is_shared(class: Class) -> bool {
    matches!(class, Class::Unknown | Class::Map | Class::Other)
}

/// Whether `a` touches no byte but those of `b`.
fn within(g: &Graph, a: &Access, b: &Access) -> bool {
    let d = distance(g, (b.base, b.disp), (a.base, a.disp));
    d.is_some_and(|d| d >= 0 && d + i64::from(a.size) <= i64::from(b.size))
}

/// Whether an access keeps an earlier store from being made after it.
fn blocks_store(g: &Graph, a: &Access, store: &Access) -> bool {
    match a.kind {
        Kind::Gone => false,
        Kind::Load | Kind::Store => meets(g, a, store) || (is_shared(a.class) && is_shared(store.class)),
        Kind::Exit | Kind::Fence => true,
    }
}

/// Bytes from one address to another, if that is known.
fn distance(g: &Graph, from: (Id, i64), to: (Id, i64)) -> Option<i64> {
    if from.0 == Id::NONE || to.0 == Id::NONE {
        return None;
    }
    if from.0 == to.0 {
        return to.1.checked_sub(from.1);
    }
    let (a, b) = (g.constant(from.0)? as i64, g.constant(to.0)? as i64);
    b.wrapping_add(to.1).checked_sub(a.wrapping_add(from.1))
}

/// Two neighbours as one; `x` is the lower part of the number.
fn combine(g: &Graph, x: Bytes, y: Bytes) -> Option<Bytes> {
    let d = distance(g, (x.base, x.disp), (y.base, y.disp))?;
    let n = x.n + y.n;
    if x.class != y.class || n > 8 || y.shift != x.shift + x.n * 8 {
        return None;
    }
    let oldest = x.oldest.min(y.oldest);
    if d == i64::from(x.n) && x.order != Order::Big && y.order != Order::Big {
        return Some(Bytes { n, oldest, order: Order::Little, ..x });
    }
    if d == -i64::from(y.n) && x.order != Order::Little && y.order != Order::Little {
        return Some(Bytes { n, oldest, order: Order::Big, shift: x.shift, ..y });
    }
    None
}

/// What a store stores.
fn stored_value(g: &mut Graph, store: Id) -> Id {
    let n = g[store];
    if n.flags & STORES_IMM != 0 { g.konst(n.aux as i32 as i64 as u64) } else { n.b }
}

/// A constant as the immediate of a store of `size` bytes.
fn store_immediate(v: u64, size: u8) -> Option<i32> {
    match size {
        1 => Some(i32::from(v as i8)),
        2 => Some(i32::from(v as i16)),
        4 => Some(v as i32),
        _ => fits32(v as i64).then_some(v as i32),
    }
}

/// The simplest value with the same lowest `size` bytes.
fn stored_part(g: &Graph, mut id: Id, size: u8) -> Id {
    loop {
        let n = &g[id];
        let bits = size * 8;
        let mask = if size == 8 { u64::MAX } else { (1 << bits) - 1 };
        id = match n.op {
            Op::Zext if bits <= 32 => n.a,
            Op::Sext if n.imm >= i64::from(bits) => n.a,
            Op::And if n.b == Id::NONE && n.imm as u64 & mask == mask && bits <= width_bits(n.w) => n.a,
            _ => return id,
        };
    }
}

/// The value that one is `bits` bits of, and the lowest of them.
fn part_of(g: &Graph, id: Id, bits: u8) -> (Id, u8) {
    let id = stored_part(g, id, bits / 8);
    let n = &g[id];
    let shifts = matches!(n.op, Op::Shr | Op::Sar) && n.b == Id::NONE;
    if shifts && n.imm as u8 + bits <= width_bits(n.w) {
        return (stored_part(g, n.a, (n.imm as u8 + bits).div_ceil(8).next_power_of_two()), n.imm as u8);
    }
    (id, 0)
}

/// The same for bits whose bytes have been reversed, as those of one byte always are.
fn reversed_part(g: &Graph, id: Id, bits: u8) -> Option<(Id, u8)> {
    let n = &g[id];
    match bits {
        8 => Some(part_of(g, id, bits)),
        _ if n.op == Op::Bswap && n.imm == i64::from(bits) => Some(part_of(g, n.a, bits)),
        _ => None,
    }
}
