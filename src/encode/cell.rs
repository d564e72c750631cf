//! One mapped value. Cells are small and `Copy`; text and bytes lie in the arena of the run that holds the cell,
//! so mapping a row allocates nothing.

/// A range of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// The first byte.
    pub start: u32,
    /// How many bytes.
    pub len: u32,
}

impl Slice {
    /// The bytes of this slice in the arena it was made for.
    pub fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.start as usize..self.start as usize + self.len as usize]
    }
}

/// A target value, ready for every sink.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    /// The source did not send the value because it did not change (TOAST): never written.
    Absent,
    /// SQL NULL.
    Null,
    /// An integer or a boolean, exact to 64 bits.
    Integer(i64),
    /// A float; infinities are allowed, NaN is not (it is mapped to `Null`).
    Real(f64),
    /// UTF-8 text, or JSON text where the column is `JSON`.
    Text(Slice),
    /// Bytes.
    Blob(Slice),
}

/// Appends `bytes` to the arena and returns where they lie.
pub fn push(arena: &mut Vec<u8>, bytes: &[u8]) -> Slice {
    let start = arena.len() as u32;
    arena.extend_from_slice(bytes);
    Slice { start, len: bytes.len() as u32 }
}
