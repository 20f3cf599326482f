"""What happens to leases in Redis as one step: the scripts, in Lua.

The keys are told in :mod:`imserver.cluster.redis_scripts`; all of them stand in one slot, and each script
gets them as :func:`lease_keys` orders them.
"""

from __future__ import annotations

from typing import Final

from imserver.cluster.redis_scripts import (
    DIGGER,
    EPOCH,
    GRAVES,
    LEASES,
    LIVES,
    REPLACED,
    VERSION,
    script,
)

_EXPIRE: Final = """
local function bury(epoch)
  redis.call('ZREM', KEYS[1], epoch)
  redis.call('HSET', KEYS[3], epoch, redis.call('HGET', KEYS[2], epoch) or '{}')
  redis.call('HDEL', KEYS[2], epoch)
  redis.call('INCR', KEYS[4])
end
for _, epoch in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do bury(epoch) end
"""

JOIN: Final = script(
    _EXPIRE
    + """
-- ARGV: node, host, fingerprint, milliseconds of the lease, lease, database.
-- Returns 'ok', epoch | 'fingerprint', a node that has another | 'database', likewise
-- | 'address', whose machine has it.
local lives = redis.call('HGETALL', KEYS[2])
local twins = {}
for k = 1, #lives, 2 do
  local other = cjson.decode(lives[k + 1])
  if other.fingerprint ~= ARGV[3] then return {'fingerprint', other.node} end
  if (other.database or '') ~= '' and other.database ~= ARGV[6] then return {'database', other.node} end
  if other.node == ARGV[1] then
    if other.host ~= ARGV[2] then return {'address', other.host} end
    twins[#twins + 1] = lives[k]
  end
end
for _, epoch in ipairs(twins) do bury(epoch) end
local epoch = text(tonumber(redis.call('GET', KEYS[5]) or now) + 1)
redis.call('SET', KEYS[5], epoch)
redis.call('ZADD', KEYS[1], text(now + ARGV[4]), epoch)
redis.call('HSET', KEYS[2], epoch, ARGV[5])
redis.call('INCR', KEYS[4])
return {'ok', epoch}
"""
)

RENEW: Final = script(
    _EXPIRE
    + """
-- ARGV: epoch, milliseconds of the lease (0: only look), lease ('': as it was), version known,
--       how many of the replaced sessions are done, the first of them.
-- Returns 0 (the lease is lost) | 1, version, last epoch, graves, replaced sessions, whether to dig,
--         lives or ''.
local epoch = ARGV[1]
if not redis.call('ZSCORE', KEYS[1], epoch) then return {0} end
if ARGV[2] ~= '0' then redis.call('ZADD', KEYS[1], text(now + ARGV[2]), epoch) end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], epoch, ARGV[3])
  redis.call('INCR', KEYS[4])
end
if ARGV[5] ~= '0' and redis.call('LINDEX', KEYS[7], 0) == ARGV[6] then
  redis.call('LTRIM', KEYS[7], ARGV[5], -1)
end
local graves, dig = redis.call('HKEYS', KEYS[3]), 0
if #graves > 0 then
  local digger = redis.call('GET', KEYS[6])
  if not digger or digger == epoch then
    redis.call('SET', KEYS[6], epoch, 'PX', 15000)
    dig = 1
  end
end
local version = redis.call('GET', KEYS[4]) or '0'
local lives = version ~= ARGV[4] and redis.call('HGETALL', KEYS[2]) or ''
local replaced = redis.call('LRANGE', KEYS[7], 0, 499)
return {1, version, redis.call('GET', KEYS[5]) or '0', graves, replaced, dig, lives}
"""
)

LEAVE: Final = script(
    """
-- ARGV: epoch, '1' if it leaves nothing behind.
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
if ARGV[2] ~= '1' then
  redis.call('HSET', KEYS[3], ARGV[1], redis.call('HGET', KEYS[2], ARGV[1]) or '{}')
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[7])
redis.call('INCR', KEYS[4])
return 1
""",
    timed=False,
)


def lease_keys(epoch: int) -> tuple[str, ...]:
    """The KEYS of the lease scripts, for a node life (0: none yet)."""
    return (LEASES, LIVES, GRAVES, VERSION, EPOCH, DIGGER, f"{REPLACED}{epoch}")
