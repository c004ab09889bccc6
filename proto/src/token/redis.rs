//! Tokens as values of `redis`: decimal digits.

use redis::{
    FromRedisValue, ParsingError, RedisWrite, ToRedisArgs, ToSingleRedisArg, Value,
    from_redis_value,
};

use super::FencingToken;

impl ToRedisArgs for FencingToken {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        self.get().write_redis_args(out);
    }
}

impl ToSingleRedisArg for FencingToken {}

impl FromRedisValue for FencingToken {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let number: u64 = from_redis_value(value)?;
        Self::new(number).ok_or_else(|| ParsingError::from("0 is no fencing token"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let token = FencingToken::new(u64::MAX).unwrap();
        let [digits] = &token.to_redis_args()[..] else { panic!("one argument") };
        let read = FencingToken::from_redis_value(Value::BulkString(digits.clone()));
        assert_eq!(read.unwrap(), token);
        assert!(FencingToken::from_redis_value(Value::Int(0)).is_err());
    }
}
