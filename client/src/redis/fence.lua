-- Runs commands only if no later token has been seen for any of the keys, and leaves ours there.
-- ARGV: the token, then each command as the number of its words and the words.

-- Tokens are compared as digits: a number of Lua's is exact up to 2^53 only.
local function later(a, b)
    return #a > #b or (#a == #b and a > b)
end

local token = ARGV[1]
for _, key in ipairs(KEYS) do
    local stored = redis.call('GET', key)
    if stored and later(stored, token) then
        return {stored}
    end
end
for _, key in ipairs(KEYS) do
    redis.call('SET', key, token)
end

local replies = {false}
local at = 2
while at <= #ARGV do
    local words = tonumber(ARGV[at])
    replies[#replies + 1] = redis.call(unpack(ARGV, at + 1, at + words))
    at = at + words + 1
end
return replies
