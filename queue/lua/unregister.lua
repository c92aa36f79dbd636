-- Forget an incarnation whose claims are all gone. KEYS: workers worker intents    ARGV: incarnation
-- Safe prefixes: its member in workers goes last, so that one cut off half-way is found silent and reaped. Safe to repeat.
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[2])
return redis.call('ZREM', KEYS[1], ARGV[1])
