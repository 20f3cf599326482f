"""The Lua scripts, and the keys they use.

Keys (an ``app`` and ``user`` as they are, ``bucket`` = crc32 of the user modulo
16384):

``imserver:users:{app:bucket}``
    Hash. Field user → the addressed sessions of the user, ``epoch.id.number[.device]`` separated by commas.
    A field has ``=`` before the name of the user if the name is empty or begins with ``=`` or ``#``.
    Field ``#`` → the last number that a session got.
``imserver:channels:{app:bucket}``
    Hash. Field channel → the nodes with members in it, ``epoch.members`` separated by commas (bucket =
    crc32 of the channel modulo 1024).
``imserver:history:created:{app\\0channel}``, ``imserver:history:created:{app\\0channel}:list``
    ``created``: when the app was created, 0 for an app of the configuration.
    Hash: ``epoch`` and ``offset`` of the newest publication of a channel, ``life`` (the life of the data in
    which the epoch began). List: the last publications (MessagePack).
``imserver:attempts:digest``
    Hash: how many attempts there were under a name (``count``), as of a time (``since``).
``imserver:values:digest``
    String: a temporary value (:class:`imserver.gateway.cluster.registry.LocalValues`).
``{imserver}:leases``
    Sorted set: epoch → end of its lease.
``{imserver}:lease-data``
    Hash: a live epoch → its lease as JSON.
``{imserver}:dead-epochs``
    Hash: a dead epoch that may have left data in the buckets → its lease as JSON.
``{imserver}:epoch``
    The last epoch.
``{imserver}:version``
    A number that grows with every change of a lease.
``{imserver}:life``
    Hash: ``life`` of the data, a name that is never given twice. ``run`` and ``replication``: the ids of the
    server that has the data. There is also a field for each id of a server that had the data.
``{imserver}:registered``, in a Redis Cluster ``imserver:registered:n`` with some numbers on each master
    Hash: the marks. Field epoch → ``1``: that node has registered all its sessions since the hash began.
    ``life``, ``run`` and ``replication`` as above: a hash begins anew when its server may have lost data.
``{imserver}:left``
    Set: the epochs of nodes that have ended in good order. A lease that was live and is neither live nor
    here has run out; its node may still live.
``{imserver}:cleaner``
    The epoch of the node that does the dead-node cleanup.
``{imserver}:written-buckets:epoch``
    Set: the buckets into which that epoch has written sessions
    (:mod:`imserver.gateway.cluster.redis.recovery`).
``{imserver}:written-channel-buckets:epoch``
    Set: the buckets into which that epoch has written channels, ``bucket:app``.
``{imserver}:replaced:epoch``
    List: sessions of that epoch that are no longer addressed.

A script uses only keys of one slot, so that it works in a Redis Cluster. There,
the record of a user and the list of replaced sessions are written by commands
of their own. Times are milliseconds since 2026, by Redis's clock.
Numbers of new sessions, and epochs, are never below the current time. So if
Redis loses its data, or returns with older data, new numbers are still above
all earlier ones.
"""

from hashlib import sha1
from typing import Final

LEASES: Final = "{imserver}:leases"
LEASE_DATA: Final = "{imserver}:lease-data"
DEAD_EPOCHS: Final = "{imserver}:dead-epochs"
EPOCH: Final = "{imserver}:epoch"
VERSION: Final = "{imserver}:version"
LIFE: Final = "{imserver}:life"
MARKS: Final = "{imserver}:registered"
"""The key of the marks, if one server has all keys."""
MARKS_IN_CLUSTER: Final = "imserver:registered:%d"
"""The key of the marks of some slots of a Redis Cluster."""
CLEANER: Final = "{imserver}:cleaner"
LEFT: Final = "{imserver}:left"
REPLACED: Final = "{imserver}:replaced:"
SERVERS: Final = "acc:hash:servers"
"""Hash: ``ip:rpcPort`` of a node → time of its last registration, in Unix
seconds as text."""
ACTION_SERVERS: Final = "ws:hash:allservers"
"""Hash: ``ip:port`` for clients of a node → time of its last registration, in
Unix seconds as text."""

TEXT_OF: Final[dict[str, str]] = {}
"""Hash of a script → its text."""

SECOND_MS: Final = 1000
"""Milliseconds of a second."""
EPOCH_MS: Final = 1_767_225_600_000
"""The beginning of 2026 in Unix milliseconds. Scripts count from there."""


def script(text: str) -> str:
    """Add a script to :data:`TEXT_OF`, and return its hash."""
    digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
    TEXT_OF[digest] = text
    return digest


def timed_script(text: str) -> str:
    """Add a script that may use the current time ``now`` and the function
    ``text(number)``. Returns its hash."""
    return script(f"""
local time = redis.call('TIME')
local now = time[1] * 1000 - {EPOCH_MS} + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
{text}""")


# --- presence -----------------------------------------------------------------

BEGIN: Final = timed_script("""
-- Registers a session.
-- KEYS: bucket, and the user's record if this script is to write it.
-- ARGV: 1 field, 2 epoch, 3 id, 4 device, 5 policy, 6 number (0: the session gets one), 7 ',dead epochs,',
--       8 ',epoch.id of sessions that are known to be dead,', 9 record, 10 seconds for which it stays,
--       11 prefix of the lists of replaced sessions ('': do not write them), 12 their entry after the id,
--       13 when the session began, 14 for how many milliseconds it counts as one that begins now.
-- Returns {1, number, replaced sessions}, or {2, sessions that refuse it}, or {3} if it is superseded.
local field, epoch, id, device, policy = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local number = tonumber(ARGV[6])
local unnumbered, began = number == 0, tonumber(ARGV[13])
-- A session that began while Redis was away gets the number that it would have got then. So does one whose
-- command comes so late that its node does not wait for the answer any more.
if unnumbered and now - began > tonumber(ARGV[14]) then number = math.max(began, 1) end
local found = redis.call('HMGET', KEYS[1], field, '#')
local mine, above
local kept, rivals, replaced = {}, {}, {}
for place in string.gmatch(found[1] or '', '[^,]+') do
  local e, i, n, d = string.match(place, '^(%d+)%.(%d+)%.(%d+)%.?(.*)$')
  if e == epoch and i == id then
    mine = tonumber(n)
  elseif not string.find(ARGV[7], ',' .. e .. ',', 1, true) then
    if policy ~= 'newest' and (policy == 'multi' or d ~= device) then
      kept[#kept + 1] = place
    elseif number > 0 and (tonumber(n) > number or unnumbered and tonumber(n) == number) then
      above = true
      kept[#kept + 1] = place
    elseif policy == 'refuse' and unnumbered
        and not string.find(ARGV[8], ',' .. e .. '.' .. i .. ',', 1, true) then
      rivals[#rivals + 1] = place
    else
      replaced[#replaced + 1] = {e, i, place}
    end
  end
end
if #rivals > 0 and not mine then return {2, table.concat(rivals, ',')} end
if above then
  if mine then redis.call('HSET', KEYS[1], field, table.concat(kept, ',')) end
  return {3}
end
local last = tonumber(found[2] or '0')
if unnumbered and mine then number = mine end
if number == 0 then number = math.max(last + 1, now) end
local place = epoch .. '.' .. id .. '.' .. text(number)
if device ~= '' then place = place .. '.' .. device end
kept[#kept + 1] = place
redis.call('HSET', KEYS[1], field, table.concat(kept, ','), '#', text(math.max(last, number)))
local places = {}
for k, gone in ipairs(replaced) do
  places[k] = gone[3]
  if ARGV[11] ~= '' and gone[1] ~= epoch then
    redis.call('RPUSH', ARGV[11] .. gone[1], gone[2] .. ARGV[12])
    redis.call('EXPIRE', ARGV[11] .. gone[1], 60)
  end
end
if KEYS[2] then redis.call('SET', KEYS[2], ARGV[9], 'EX', ARGV[10]) end
return {1, text(number), table.concat(places, ',')}
""")

END: Final = timed_script("""
-- Unregisters a session.
-- KEYS: bucket, and the user's record if this script is to write it.
-- ARGV: field, epoch, id, ',dead epochs,', record, seconds for which it stays.
-- Returns 1 if the user has no session left, 2 if the session was not there and the user has no other one,
-- and 0 if the user has other sessions.
local kept, mine = {}, false
for place in string.gmatch(redis.call('HGET', KEYS[1], ARGV[1]) or '', '[^,]+') do
  local e, i = string.match(place, '^(%d+)%.(%d+)')
  if e == ARGV[2] and i == ARGV[3] then
    mine = true
  elseif not string.find(ARGV[4], ',' .. e .. ',', 1, true) then
    kept[#kept + 1] = place
  end
end
if not mine then return #kept == 0 and 2 or 0 end
if #kept > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], table.concat(kept, ','))
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HLEN', KEYS[1]) == 1 then
  -- Only the last number is left. Numbers go on from the time, so one in the past may be forgotten.
  local last = tonumber(redis.call('HGET', KEYS[1], '#') or '') or now
  if last < now then redis.call('DEL', KEYS[1]) end
end
if KEYS[2] then redis.call('SET', KEYS[2], ARGV[5], 'EX', ARGV[6]) end
return 1
""")

CLEAN_BUCKET: Final = timed_script("""
-- Removes the sessions of dead epochs.
-- KEYS: bucket. ARGV: ',dead epochs,'. Returns the fields of users who have no session any more.
local all = redis.call('HGETALL', KEYS[1])
local gone, left = {}, 0
for k = 1, #all, 2 do
  if string.sub(all[k], 1, 1) ~= '#' then
    local kept, hit = {}, false
    for place in string.gmatch(all[k + 1], '[^,]+') do
      if string.find(ARGV[1], ',' .. string.match(place, '^%d+') .. ',', 1, true) then
        hit = true
      else
        kept[#kept + 1] = place
      end
    end
    if hit and #kept == 0 then
      redis.call('HDEL', KEYS[1], all[k])
      gone[#gone + 1] = all[k]
    else
      left = left + 1
      if hit then redis.call('HSET', KEYS[1], all[k], table.concat(kept, ',')) end
    end
  end
end
if left == 0 and #all > 0 and tonumber(redis.call('HGET', KEYS[1], '#') or '0') < now then
  redis.call('DEL', KEYS[1])
end
return gone
""")

ATTEMPT: Final = timed_script("""
-- Counts attempts under a name.
-- KEYS: the attempts. ARGV: how many there may be, milliseconds after which each is forgotten, how many to
--       count (negative: take these back; 0: count none, but ask whether one could be counted).
-- Returns 0, or the milliseconds until the attempts could be counted.
local most, each, weight = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found = redis.call('HMGET', KEYS[1], 'count', 'since')
local count = math.max(0, tonumber(found[1] or '0') - (now - tonumber(found[2] or '0')) / each)
if weight == 0 then return math.max(0, math.ceil((count + 1 - most) * each)) end
local above = count + weight - most
if weight > 0 and above > 0 then return math.ceil(above * each) end
count = math.max(0, count + weight)
if count == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'count', tostring(count), 'since', text(now))
  redis.call('PEXPIRE', KEYS[1], text(math.ceil(count * each)))
end
return 0
""")

REPLACE_RECORD: Final = script("""
-- Replaces a user's record, if it has not changed since it was read.
-- KEYS: the record. ARGV: its old value, its new value. Returns 1 if it was replaced, else 0.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
  return 1
end
return 0
""")

# --- channels -----------------------------------------------------------------

ENTER_CHANNEL: Final = script("""
-- Sets how many members a channel has on a node.
-- KEYS: bucket. ARGV: channel, epoch, members (0: none any more), ',dead epochs,'.
-- Returns how many other nodes have members.
local kept = {}
for e, n in string.gmatch(redis.call('HGET', KEYS[1], ARGV[1]) or '', '(%d+)%.(%d+)') do
  if e ~= ARGV[2] and not string.find(ARGV[4], ',' .. e .. ',', 1, true) then
    kept[#kept + 1] = e .. '.' .. n
  end
end
local others = #kept
if ARGV[3] ~= '0' then kept[#kept + 1] = ARGV[2] .. '.' .. ARGV[3] end
if #kept > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], table.concat(kept, ','))
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return others
""")

CLEAN_ROOMS: Final = script("""
-- Removes dead epochs from the channels.
-- KEYS: bucket. ARGV: ',dead epochs,'. Returns how many channels had members there.
local all, hits = redis.call('HGETALL', KEYS[1]), 0
for k = 1, #all, 2 do
  local kept, hit = {}, false
  for e, n in string.gmatch(all[k + 1], '(%d+)%.(%d+)') do
    if string.find(ARGV[1], ',' .. e .. ',', 1, true) then
      hit = true
    else
      kept[#kept + 1] = e .. '.' .. n
    end
  end
  if hit then
    hits = hits + 1
    if #kept > 0 then
      redis.call('HSET', KEYS[1], all[k], table.concat(kept, ','))
    else
      redis.call('HDEL', KEYS[1], all[k])
    end
  end
end
return hits
""")

# --- message ids --------------------------------------------------------------

CLAIM: Final = script("""
-- Claims a message id, if it is free.
-- KEYS: the message id. ARGV: token, milliseconds for which the claim holds.
-- Returns who has the id: this token, another token, or '1' if the id was accepted.
local holder = redis.call('GET', KEYS[1])
if holder then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
""")

RELEASE: Final = script("""
-- Releases a message id, if this token has it.
-- KEYS: the message id. ARGV: token.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")


_EXPIRE: Final = """
local function expire(epoch)
  redis.call('ZREM', KEYS[1], epoch)
  redis.call('HSET', KEYS[3], epoch, redis.call('HGET', KEYS[2], epoch) or '{}')
  redis.call('HDEL', KEYS[2], epoch)
  redis.call('INCR', KEYS[4])
end
for _, epoch in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do expire(epoch) end
"""

JOIN: Final = timed_script(
    _EXPIRE
    + """
-- ARGV: node, host, empty, milliseconds of the lease, lease, database, highest epoch that it knows,
-- the features of version 1.0 that all nodes have, or none.
-- The epoch is above all earlier ones, also if Redis has come back with older data.
-- Returns 'ok', epoch | 'fingerprint', a node that has another | 'database', likewise
-- | 'features', a node and the first feature in which it differs | 'address', whose machine has it
-- | 'names', the feature_names with which older nodes accept the lease: join again with these.
local lives = redis.call('HGETALL', KEYS[2])
local twins = {}
local own = cjson.decode(ARGV[5])
-- Whether a node accepts the first secret of another one.
local function accepts(one, other)
  return other.fingerprint == one.fingerprint
    or (other.fingerprint ~= '' and other.fingerprint == one.second_fingerprint)
end
local function set_of(names)
  local set = {}
  for name in string.gmatch(names or '', '%S+') do set[name] = true end
  return set
end
-- The features of a node, and those that it leaves out though its release knows them.
local function features_of(lease)
  if (lease.all_features or '') ~= '' then
    return set_of(lease.all_features), set_of(lease.features_left_out)
  end
  local names, left_out = set_of(lease.feature_names), set_of(ARGV[8])
  for name in pairs(names) do left_out[name] = nil end
  return names, left_out
end
local function shared(one, other)
  for name in pairs(one) do
    if other[name] then return name end
  end
end
local own_names, own_left_out = features_of(own)
local older_names, other_names, fits = nil, nil, false
for k = 1, #lives, 2 do
  local other = cjson.decode(lives[k + 1])
  if not (accepts(own, other) and accepts(other, own)) then return {'fingerprint', other.node} end
  if (other.database or '') ~= '' and other.database ~= ARGV[6] then return {'database', other.node} end
  if other.node == ARGV[1] then
    if other.host ~= ARGV[2] then return {'address', other.host} end
    twins[#twins + 1] = lives[k]
  elseif (other.feature_names or '') ~= '' then
    local names, left_out = features_of(other)
    local feature = shared(own_names, left_out) or shared(names, own_left_out)
    if feature then return {'features', other.node .. ': ' .. feature} end
    if (other.all_features or '') == '' then older_names = other.feature_names end
    other_names = other.feature_names
    fits = fits or other_names == own.feature_names
  end
end
-- Nodes of version 1.0 refuse a node whose feature_names are not theirs. So the whole cluster has the same.
local expected = older_names
if not expected and not fits then expected = other_names end
if expected and expected ~= own.feature_names then return {'names', expected} end
for _, epoch in ipairs(twins) do expire(epoch) end
local epoch = text(math.max(tonumber(redis.call('GET', KEYS[5]) or '0'), tonumber(ARGV[7]), now) + 1)
redis.call('SET', KEYS[5], epoch)
redis.call('ZADD', KEYS[1], text(now + ARGV[4]), epoch)
redis.call('HSET', KEYS[2], epoch, ARGV[5])
redis.call('INCR', KEYS[4])
return {'ok', epoch}
"""
)

RENEW: Final = timed_script(
    _EXPIRE
    + """
-- ARGV: epoch, milliseconds of the lease (0: only look), lease ('': as it was), version known,
--       how many of the replaced sessions are done, the first of them, node, its birth.
-- Returns 0 (the lease is lost, or is that of another node) | 1, version, last epoch, dead epochs,
--         replaced, whether to clean up, lives or '', the time, with lives also the epochs that have left.
--         Two lives of the data may count to the same version.
local epoch = ARGV[1]
if not redis.call('ZSCORE', KEYS[1], epoch) then return {0} end
if ARGV[2] ~= '0' then
  local owner = cjson.decode(redis.call('HGET', KEYS[2], epoch) or '{}')
  if owner.node and (owner.node ~= ARGV[7] or owner.birth ~= tonumber(ARGV[8])) then return {0} end
  redis.call('ZADD', KEYS[1], text(now + ARGV[2]), epoch)
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], epoch, ARGV[3])
  redis.call('INCR', KEYS[4])
end
if ARGV[5] ~= '0' and redis.call('LINDEX', KEYS[7], 0) == ARGV[6] then
  redis.call('LTRIM', KEYS[7], ARGV[5], -1)
end
local dead, clean = redis.call('HKEYS', KEYS[3]), 0
if #dead > 0 then
  local cleaner = redis.call('GET', KEYS[6])
  if not cleaner or cleaner == epoch then
    redis.call('SET', KEYS[6], epoch, 'PX', 15000)
    clean = 1
  end
end
local version = (redis.call('HGET', KEYS[8], 'life') or '') .. ':' .. (redis.call('GET', KEYS[4]) or '0')
local lives, left = '', {}
if version ~= ARGV[4] then
  lives, left = redis.call('HGETALL', KEYS[2]), redis.call('SMEMBERS', KEYS[9])
end
local replaced = redis.call('LRANGE', KEYS[7], 0, 499)
return {1, version, redis.call('GET', KEYS[5]) or '0', dead, replaced, clean, lives, text(now), left}
"""
)

LEAVE: Final = script("""
-- ARGV: epoch, '1' if it leaves nothing behind.
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
if ARGV[2] ~= '1' then
  redis.call('HSET', KEYS[3], ARGV[1], redis.call('HGET', KEYS[2], ARGV[1]) or '{}')
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[7])
redis.call('SADD', KEYS[9], ARGV[1])
redis.call('EXPIRE', KEYS[9], 60)
redis.call('INCR', KEYS[4])
return 1
""")


_SERVER_IDS: Final = """
-- The ids of this server, of its data, and whether these were the data of another server before; or '' if it
-- does not tell them. A server gets another id of its data, too, when its first replica comes and an hour
-- after its last one has gone. Then it has no second id, as a former replica has, and the life goes on.
local function ids_of_server()
  local server, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
  local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)')
  if not run or type(replication) ~= 'string' then return '', '', false end
  local id = string.match(replication, 'master_replid:(%w+)') or ''
  return run, id, string.match(replication, 'master_replid2:0*[1-9a-f]') ~= nil
end
"""

_LIFE: Final = (
    _SERVER_IDS
    + """
-- The life of the data of this server. Another one begins if the data may lack what was written before: the
-- server was restarted, or it is a replica that has become the master, also one that was the master before.
-- The first life of a server has its id as its name, as nodes of the version before expect. A replica fails
-- here: it takes no writes.
local function life_of(key, name)
  local run, id, was_replica = ids_of_server()
  if run == '' then return '' end
  local found = redis.call('HMGET', key, 'life', 'run', 'replication')
  local life = found[1]
  if found[2] ~= run or found[3] ~= id and was_replica then
    life = redis.call('HSETNX', key, run, '') == 1 and run or run .. '.' .. name
  elseif found[3] == id then
    return life
  end
  redis.call('HSET', key, 'life', life, 'run', run, 'replication', id)
  return life
end
"""
)

BEGIN_LIFE: Final = script(
    _LIFE
    + """
-- KEYS: of the life. ARGV: the name of a new one. Returns the life; '' if the server does not tell its ids.
return life_of(KEYS[1], ARGV[1])
"""
)

BEGIN_MARKS: Final = script(
    _SERVER_IDS
    + """
-- KEYS: marks. ARGV: the name of a new life. Returns the life of the marks. They begin anew if the server may
-- have lost data since they began, as far as it tells its ids.
local run, id, was_replica = ids_of_server()
local found = redis.call('HMGET', KEYS[1], 'life', 'run', 'replication')
local life = found[1]
if not life or found[2] ~= run or found[3] ~= id and was_replica then
  life = ARGV[1]
  redis.call('DEL', KEYS[1])
elseif found[3] == id then
  return life
end
redis.call('HSET', KEYS[1], 'life', life, 'run', run, 'replication', id)
return life
"""
)

SET_MARK: Final = script("""
-- KEYS: marks. ARGV: the life of them in which the node has registered its sessions, its epoch,
--       the highest epoch that it knows, ',epochs of reachable nodes,'.
-- Returns 0 if the marks have begun anew meanwhile. Removes marks of nodes that are no more.
if redis.call('HGET', KEYS[1], 'life') ~= ARGV[1] then return 0 end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local epoch = tonumber(field, 10)
  if epoch and epoch <= tonumber(ARGV[3]) and not string.find(ARGV[4], ',' .. field .. ',', 1, true) then
    redis.call('HDEL', KEYS[1], field)
  end
end
redis.call('HSET', KEYS[1], ARGV[2], '1')
return 1
""")


def lease_keys(epoch: int) -> tuple[int | str, ...]:
    """Return the number of the KEYS of the lease scripts, followed by these
    keys. All keys are in one slot. ``epoch`` is the epoch of the node; 0 before
    it has joined."""
    keys = (
        LEASES,
        LEASE_DATA,
        DEAD_EPOCHS,
        VERSION,
        EPOCH,
        CLEANER,
        f"{REPLACED}{epoch}",
        LIFE,
        LEFT,
    )
    return (len(keys), *keys)


# --- channels -----------------------------------------------------------------

_OPEN_HISTORY: Final = (
    _LIFE
    + """
-- A new life of the data may lack publications, so a new epoch begins. A Redis Cluster has none.
local life = life_key and (redis.call('HGET', life_key, 'life') or life_of(life_key, ARGV[1])) or ''
local found = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'life')
local epoch, offset = found[1], tonumber(found[2] or '0')
if not epoch or (found[3] ~= life and life ~= '') then
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'offset', 0, 'life', life)
  epoch, offset = ARGV[1], 0
end
"""
)

APPEND_HISTORY: Final = script(
    "local life_key = KEYS[4]"
    + _OPEN_HISTORY
    + """
-- KEYS: hash, list, id of the publication, life (not in a Redis Cluster). ARGV: a new epoch, bytes of the
--       publication, how many stay, milliseconds that they stay, that the position stays, that the id stays.
-- Returns the epoch and the offset of the publication. A repeated call appends nothing.
local before = redis.call('GET', KEYS[3])
if before then
  local its_epoch, its_offset = string.match(before, '^(%S+) (%d+)$')
  if its_epoch == epoch then return {epoch, tonumber(its_offset)} end
end
offset = offset + 1
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[3]), -1)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'offset', offset)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('SET', KEYS[3], epoch .. string.format(' %.0f', offset), 'PX', ARGV[6])
return {epoch, offset}
"""
)

READ_HISTORY: Final = script(
    "local life_key = KEYS[3]"
    + _OPEN_HISTORY
    + """
-- KEYS: hash, list, life (not in a Redis Cluster). ARGV: a new epoch, offset after which (-1: from the
--       oldest), how many (-1: all), 1: newest first, milliseconds that the position stays.
-- Returns epoch, offset, offset of the first of the found ones (in their order), and these.
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local since, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local length = redis.call('LLEN', KEYS[2])
local oldest = offset - length + 1
if limit == 0 or length == 0 then return {epoch, offset, 0, {}} end
local from, to = 0, length - 1
if ARGV[4] == '1' then
  if since >= 0 then to = math.min(to, since - oldest - 1) end
  if limit > 0 then from = math.max(0, to - limit + 1) end
else
  if since >= 0 then from = math.max(0, since - oldest + 1) end
  if limit > 0 then to = math.min(to, from + limit - 1) end
end
if to < from then return {epoch, offset, 0, {}} end
return {epoch, offset, oldest + from, redis.call('LRANGE', KEYS[2], from, to)}
"""
)

FIND_PUBLICATIONS: Final = script("""
-- KEYS: list. ARGV: first and last index, bytes.
-- Returns how many publications are there, and those that contain the bytes.
local all, found = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2]), {}
for _, each in ipairs(all) do
  if string.find(each, ARGV[3], 1, true) then found[#found + 1] = each end
end
return {#all, found}
""")

REPLACE_PUBLICATIONS: Final = script("""
-- KEYS: list. ARGV: pairs of a publication and what shall stand in its place.
local others = {}
for k = 1, #ARGV, 2 do others[ARGV[k]] = ARGV[k + 1] end
for index, each in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if others[each] then redis.call('LSET', KEYS[1], index - 1, others[each]) end
end
return 1
""")
