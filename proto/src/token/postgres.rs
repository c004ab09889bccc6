//! Tokens as values of `tokio-postgres`: a `bigint`.

use std::error::Error;

use bytes::BytesMut;
use postgres_types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use super::FencingToken;

impl ToSql for FencingToken {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        i64::try_from(self.get())?.to_sql(ty, out)
    }

    accepts!(INT8);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for FencingToken {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let value = u64::try_from(i64::from_sql(ty, raw)?)?;
        Self::new(value).ok_or_else(|| "0 is no fencing token".into())
    }

    accepts!(INT8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(value: u64) -> FencingToken {
        FencingToken::new(value).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = BytesMut::new();
        assert!(token(812).to_sql(&Type::INT8, &mut out).is_ok());
        assert_eq!(FencingToken::from_sql(&Type::INT8, &out).unwrap(), token(812));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(token(u64::MAX).to_sql(&Type::INT8, &mut BytesMut::new()).is_err());
        for wrong in [0_i64, -1] {
            assert!(FencingToken::from_sql(&Type::INT8, &wrong.to_be_bytes()).is_err(), "{wrong}");
        }
    }
}
