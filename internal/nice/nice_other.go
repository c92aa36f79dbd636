//go:build !linux

package nice

// Raise does nothing here: what it is for was measured on Linux alone.
func Raise(int) error { return nil }

// Yield does nothing here, likewise.
func Yield() {}
