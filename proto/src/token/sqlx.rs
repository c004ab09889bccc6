//! Tokens as values of `sqlx` for Postgres: a `bigint`.

use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef},
};

use super::FencingToken;

impl Type<Postgres> for FencingToken {
    fn type_info() -> PgTypeInfo {
        <i64 as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for FencingToken {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode_by_ref(&i64::try_from(self.get())?, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for FencingToken {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let value = u64::try_from(<i64 as Decode<Postgres>>::decode(value)?)?;
        Self::new(value).ok_or_else(|| "0 is no fencing token".into())
    }
}
