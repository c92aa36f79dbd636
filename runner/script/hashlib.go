package script

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
)

// hashlibModule is Python's hashlib in small: md5, sha1, sha256 and sha512 of a string or bytes, with hexdigest().
var hashlibModule = &starlarkstruct.Module{Name: "hashlib", Members: starlark.StringDict{
	"md5": hasher("md5", md5.New), "sha1": hasher("sha1", sha1.New),
	"sha256": hasher("sha256", sha256.New), "sha512": hasher("sha512", sha512.New),
}}

func hasher(name string, fresh func() hash.Hash) *starlark.Builtin {
	return starlark.NewBuiltin("hashlib."+name, func(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var data starlark.Value
		if err := starlark.UnpackArgs(b.Name(), args, kwargs, "data", &data); err != nil {
			return nil, err
		}
		h := fresh()
		switch d := data.(type) {
		case starlark.String:
			h.Write([]byte(d))
		case starlark.Bytes:
			h.Write([]byte(d))
		default:
			return nil, fmt.Errorf("%s: data is a %s, expected a string or bytes", b.Name(), data.Type())
		}
		return digest{name, string(h.Sum(nil))}, nil
	})
}

// digest is what a hash function returns.
type digest struct {
	algorithm, sum string
}

func (d digest) String() string {
	return fmt.Sprintf("<%s %s>", d.algorithm, hex.EncodeToString([]byte(d.sum)))
}
func (d digest) Type() string          { return "hash" }
func (d digest) Freeze()               {}
func (d digest) Truth() starlark.Bool  { return true }
func (d digest) Hash() (uint32, error) { return starlark.String(d.sum).Hash() }
func (d digest) AttrNames() []string   { return []string{"digest", "hexdigest", "name"} }

func (d digest) Attr(name string) (starlark.Value, error) {
	switch name {
	case "name":
		return starlark.String(d.algorithm), nil
	case "hexdigest":
		return constant("hexdigest", starlark.String(hex.EncodeToString([]byte(d.sum)))), nil
	case "digest":
		return constant("digest", starlark.Bytes(d.sum)), nil
	default:
		return nil, nil // Starlark's way to say that there is no such attribute
	}
}

// constant is a method without parameters that returns a value.
func constant(name string, value starlark.Value) *starlark.Builtin {
	return starlark.NewBuiltin(name, func(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		return value, starlark.UnpackArgs(b.Name(), args, kwargs)
	})
}
