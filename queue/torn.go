package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ForgetTorn has Redis write its append-only file anew, in the background, if it has not done so since it was started, and says
// whether it asked for that. It is safe to repeat, and for a whole fleet at once. [ErrRefused] means that this user may not; whoever may
// not even ask hears nothing.
//
// It is for what a crash tears. A script's writes are one transaction in that file. Where the file ends in the middle of one, Redis
// leaves it out when it starts, but leaves its first commands standing in the file, and what is written afterwards follows them: the
// start after next runs them all (seen in Redis 7.0.15; valkey-io/valkey#4342). Results that had been torn off, and were committed
// again, would then be there twice. A file that was written from memory has no such remains.
//
// A Redis whose auto-aof-rewrite-percentage is 0 is left to the operator, who rewrites at times of his own.
func (q *Queue) ForgetTorn(ctx context.Context) (asked bool, err error) {
	info, err := q.rdb.Info(ctx, "persistence").Result()
	err = wrap("info", err)
	if errors.Is(err, ErrRefused) && !IsPassing(err) { // miniredis knows no such section
		return false, nil
	}
	if err == nil && infoField(info, "loading") == "1" { // and says that it has no such file, until it has read it
		err = fmt.Errorf("info: %w: LOADING", ErrRefused)
	}
	if err != nil || !mayRemember(info) {
		return false, err
	}
	settings, err := q.rdb.ConfigGet(ctx, "auto-aof-rewrite-percentage").Result()
	if err == nil && settings["auto-aof-rewrite-percentage"] == "0" {
		return false, nil
	}
	err = q.rdb.BgRewriteAOF(ctx).Err()
	if err != nil && strings.Contains(err.Error(), "in progress") { // for another worker
		return false, nil
	}
	return err == nil, wrap("rewrite", err)
}

// mayRemember says whether an append-only file may still have what a crash tore.
func mayRemember(info string) bool {
	return infoField(info, "aof_enabled") == "1" && infoField(info, "aof_last_rewrite_time_sec") == "-1" &&
		infoField(info, "aof_rewrite_in_progress") == "0" && infoField(info, "aof_rewrite_scheduled") == "0"
}
