package main

import (
	"fmt"

	"github.com/alicebob/miniredis/v2"
)

// embeddedRedis is a Redis inside this process, for demo and dev: nothing to install, and nothing kept.
type embeddedRedis struct {
	server *miniredis.Miniredis
}

func startEmbedded(addr string) (*embeddedRedis, error) {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(addr); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	server.ClockTTL(true) // miniredis expires keys only when told to, unless its clock runs
	return &embeddedRedis{server}, nil
}

func (e *embeddedRedis) url() string { return "redis://" + e.server.Addr() }

func (e *embeddedRedis) close() { e.server.Close() }
