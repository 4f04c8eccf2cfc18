//! Types of tensor elements, by their names in files.

use burn::tensor::{BoolStore, DType};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain float.
    Bf16,
    /// An 8-bit float of any kind.
    F8,
    /// A pair of 64-bit floats.
    C128,
    /// A pair of 32-bit floats.
    C64,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 64 bits.
    U64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// A type of less than a byte (safetensors).
    Packed,
}

/// Type, name, bytes, PyTorch's storage (without `Storage`) and dtype.
const DTYPES: [(Dtype, &str, u64, &str, &str); 17] = [
    (Dtype::F64, "f64", 8, "Double", "float64"),
    (Dtype::F32, "f32", 4, "Float", "float32"),
    (Dtype::F16, "f16", 2, "Half", "float16"),
    (Dtype::Bf16, "bf16", 2, "BFloat16", "bfloat16"),
    (Dtype::F8, "f8", 1, "", "float8"),
    (Dtype::C128, "c128", 16, "ComplexDouble", "complex128"),
    (Dtype::C64, "c64", 8, "ComplexFloat", "complex64"),
    (Dtype::I64, "i64", 8, "Long", "int64"),
    (Dtype::I32, "i32", 4, "Int", "int32"),
    (Dtype::I16, "i16", 2, "Short", "int16"),
    (Dtype::I8, "i8", 1, "Char", "int8"),
    (Dtype::U64, "u64", 8, "", "uint64"),
    (Dtype::U32, "u32", 4, "", "uint32"),
    (Dtype::U16, "u16", 2, "", "uint16"),
    (Dtype::U8, "u8", 1, "Byte", "uint8"),
    (Dtype::Bool, "bool", 1, "Bool", "bool"),
    (Dtype::Packed, "packed", 0, "", ""),
];

impl Dtype {
    fn row(self) -> &'static (Self, &'static str, u64, &'static str, &'static str) {
        DTYPES.iter().find(|row| row.0 == self).unwrap_or(&DTYPES[0])
    }

    /// `f32`, `bf16`, `i64`, …
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        self.row().2
    }

    /// Whether it can hold weights.
    pub fn is_weight(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    pub(crate) fn burn(self) -> Option<DType> {
        Some(match self {
            Self::F64 => DType::F64,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::I64 => DType::I64,
            Self::I32 => DType::I32,
            Self::I16 => DType::I16,
            Self::I8 => DType::I8,
            Self::U64 => DType::U64,
            Self::U32 => DType::U32,
            Self::U16 => DType::U16,
            Self::U8 => DType::U8,
            Self::Bool => DType::Bool(BoolStore::U8),
            Self::F8 | Self::C128 | Self::C64 | Self::Packed => return None,
        })
    }

    /// By the name of PyTorch's storage, without `Storage`.
    pub(crate) fn of_storage(name: &str) -> Option<Self> {
        if name == "Untyped" {
            return Some(Self::U8);
        }
        DTYPES
            .iter()
            .find(|row| row.3 == name && !name.is_empty())
            .map(|row| row.0)
    }

    /// By the name of PyTorch's dtype, without `torch.`.
    pub(crate) fn of_torch(name: &str) -> Option<Self> {
        if name.starts_with("float8_") {
            return Some(Self::F8);
        }
        DTYPES
            .iter()
            .find(|row| row.4 == name && !name.is_empty())
            .map(|row| row.0)
    }

    pub(crate) fn of_safetensors(dtype: safetensors::Dtype) -> Self {
        use safetensors::Dtype as Theirs;
        match dtype {
            Theirs::F64 => Self::F64,
            Theirs::F32 => Self::F32,
            Theirs::F16 => Self::F16,
            Theirs::BF16 => Self::Bf16,
            Theirs::C64 => Self::C64,
            Theirs::I64 => Self::I64,
            Theirs::I32 => Self::I32,
            Theirs::I16 => Self::I16,
            Theirs::I8 => Self::I8,
            Theirs::U64 => Self::U64,
            Theirs::U32 => Self::U32,
            Theirs::U16 => Self::U16,
            Theirs::U8 => Self::U8,
            Theirs::BOOL => Self::Bool,
            other if other.bitsize() == 8 => Self::F8,
            _ => Self::Packed,
        }
    }
}
