// Package config is the environment as one flat struct. Every variable is a field of [Config] with its name, default,
// description and what it accepts beside it, and that one place feeds loading, bobbin worker --help and the README's table.
//
// A wrong value stops the start, and [Load] names every wrong variable at once. Secrets are never printed: a Config shows
// its Redis URL without the password, and errors do the same.
package config

import (
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
	"github.com/redis/go-redis/v9"
)

// Config is what the environment says. The zero value is not usable; [Load] fills in the defaults. Nothing writes it after
// that, so any number of goroutines may read it.
//
// To add a variable, add a field: its name gives the variable's (MaxRecoveries, BOBBIN_MAX_RECOVERIES), default and desc go
// into the tables, and min and max, oneof, or accepts with a case in checkText say what is accepted.
type Config struct {
	RedisURL              string        `split_words:"true" default:"redis://127.0.0.1:6379/0" accepts:"redis://, rediss:// or unix:// URL" desc:"Redis to work on"`
	Prefix                string        `split_words:"true" default:"bobbin" accepts:"name of printable ASCII without spaces or any of {}:*?[]" desc:"first part of every key"`
	Queue                 string        `split_words:"true" default:"default" accepts:"name of printable ASCII without spaces or any of {}:*?[]" desc:"queue to work on"`
	Concurrency           int           `split_words:"true" default:"4" min:"1" max:"100000" desc:"executions at the same time"`
	Timeout               time.Duration `split_words:"true" default:"300s" min:"1ms" max:"8760h" desc:"after this long an execution that sets no timeout is cancelled"`
	CancelGrace           time.Duration `split_words:"true" default:"10s" min:"1ms" max:"1h" desc:"after this long a cancelled execution that still runs is stuck"`
	ShutdownTimeout       time.Duration `split_words:"true" default:"25s" min:"1ms" max:"24h" desc:"after this long a worker that shuts down releases what still runs"`
	StuckLimit            int           `split_words:"true" default:"1" min:"1" max:"100000" desc:"this many stuck executions make the worker drain and ask to be replaced"`
	Lease                 time.Duration `split_words:"true" default:"10s" min:"300ms" max:"1h" desc:"after this much silence a worker's executions are given to others"`
	MaxRecoveries         int           `split_words:"true" default:"3" min:"0" max:"1000" desc:"how often an execution is taken over from a dead worker before it is lost"`
	MaxRSS                Bytes         `split_words:"true" default:"0" min:"0" max:"1024GiB" desc:"a worker that holds about this much memory, or up to a tenth less, asks to be replaced; 0: never"`
	MaxExecutions         int           `split_words:"true" default:"0" min:"0" max:"2000000000" desc:"a worker asks to be replaced after about this many, up to a tenth fewer; 0: never"`
	Nice                  int           `split_words:"true" default:"10" min:"0" max:"19" desc:"a worker whose Redis is on its own machine (loopback or unix socket) steps back behind it: it becomes at least this nice, as nice(1) has it, does not interrupt it when it wakes up (SCHED_BATCH), and yields to it after each request; 0: none of that"`
	QuarantineThreshold   int           `split_words:"true" default:"5" min:"0" max:"100000" desc:"a workflow that was stuck or lost this often within the window is refused; 0: never"`
	QuarantineWindow      time.Duration `split_words:"true" default:"60m" min:"1s" max:"8760h" desc:"how long a stuck or lost execution counts towards the threshold"`
	HTTPAddr              string        `split_words:"true" accepts:"host and port, such as 127.0.0.1:9090 or :9090" desc:"metrics, /healthz and /readyz are served here; empty: off"`
	ContextMaxBytes       Bytes         `split_words:"true" default:"1MiB" min:"1KiB" max:"512MiB" desc:"largest context; larger ones are rejected"`
	ResultMaxBytes        Bytes         `split_words:"true" default:"1MiB" min:"1KiB" max:"512MiB" desc:"largest result; executions with larger ones fail"`
	ResultsMax            int           `split_words:"true" default:"10000000" min:"0" max:"2000000000" desc:"unread results above which workers stop claiming; 0: never"`
	ResultsRetention      time.Duration `split_words:"true" default:"168h" min:"0s" max:"87600h" desc:"results that every consumer group has acknowledged are trimmed when they are this old, and without groups any; 0s: never"`
	Python                string        `split_words:"true" default:"python3" accepts:"program in PATH or its path" desc:"CPython 3.9 or later that runs .py workflows"`
	PythonMode            string        `split_words:"true" default:"resident" oneof:"resident, fork" desc:"where a .py workflow runs that asks for no isolation: in an interpreter that lives on, or in a child of it"`
	PythonWarm            int           `split_words:"true" default:"0" min:"0" max:"100000" desc:"interpreters started ahead, at most as many as run at the same time"`
	PythonPreload         string        `split_words:"true" accepts:"list of modules, separated by commas" desc:"modules imported once, before the first execution: installed ones by name, published ones by path"`
	PythonMaxExecutions   int           `split_words:"true" default:"10000" min:"0" max:"2000000000" desc:"an interpreter, of Node.js too, is replaced after about this many; 0: never"`
	PythonMaxRSS          Bytes         `split_words:"true" default:"512MiB" min:"0" max:"1024GiB" desc:"an interpreter, of Node.js too, is replaced when it holds nearly this much memory, and killed when it holds more; 0: never"`
	Node                  string        `split_words:"true" default:"node" accepts:"program in PATH or its path" desc:"Node.js 20 or later that runs .mjs workflows"`
	LogLevel              string        `split_words:"true" default:"info" oneof:"debug, info, warn, error" desc:"least severe lines that are logged"`
	LogFormat             string        `split_words:"true" default:"text" oneof:"text, json" desc:"text for people, json for machines"`
	ControlPublicKey      string        `split_words:"true" accepts:"public key as bobbin keygen prints it" desc:"obey only commands signed with its private half; empty: obey all"`
	ControlPrivateKeyFile string        `split_words:"true" accepts:"path of the file that bobbin keygen wrote" desc:"the bobbin command signs with this key; workers do not need it"`

	// Unknown lists variables that begin like ours and are none of them: most likely misspelt.
	Unknown []string `ignored:"true"`
}

const prefix = "BOBBIN"

// foreign are beginnings of variables that belong to tests and tools.
var foreign = []string{"BOBBIN_TEST_", "BOBBIN_REQUIRE_", "BOBBIN_SOAK", "BOBBIN_CHAOS", "BOBBIN_SUPERVISED_"}

// Problem is one variable with a value that is not accepted.
type Problem struct {
	Variable, Value, Expected string
}

// Error lists every wrong variable. It is returned by [Load].
type Error struct {
	Problems []Problem
}

// Error says one line per variable: its name, its value, and what is accepted.
func (e *Error) Error() string {
	lines := []string{"the environment has wrong values"}
	for _, p := range e.Problems {
		lines = append(lines, fmt.Sprintf("  %s=%q: expected %s", p.Variable, p.Value, p.Expected))
	}
	return strings.Join(lines, "\n")
}

// Load reads the environment of the process. The error is an [*Error].
func Load() (*Config, error) {
	c, failure := &Config{}, &Error{}
	for _, v := range Table() {
		if err := v.load(reflect.ValueOf(c).Elem().FieldByName(v.field.Name)); err != nil {
			failure.Problems = append(failure.Problems, Problem{v.Name, v.shown(os.Getenv(v.Name)), v.expected()})
		}
	}
	c.Unknown = unknown(os.Environ())
	if len(failure.Problems) > 0 {
		return nil, failure
	}
	return c, nil
}

// RedisIsLocal says whether Redis is reached without leaving the machine: by a unix socket, localhost or a loopback address.
func (c *Config) RedisIsLocal() bool {
	o, err := redis.ParseURL(c.RedisURL)
	if err != nil {
		return false
	}
	host, _, _ := net.SplitHostPort(o.Addr)
	address, _ := netip.ParseAddr(host)
	address = address.Unmap().WithZone("")
	return o.Network == "unix" || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") ||
		address.IsLoopback() || address.IsUnspecified() // to connect to 0.0.0.0 is to connect to this machine
}

// load reads one variable. envconfig is handed a struct of this field alone, because it stops at the first wrong value, and
// a person who has to mend three wants to hear of three.
func (v *Variable) load(target reflect.Value) error {
	alone := reflect.New(reflect.StructOf([]reflect.StructField{v.field}))
	if err := envconfig.Process(prefix, alone.Interface()); err != nil {
		return err
	}
	target.Set(alone.Elem().Field(0))
	if text, set := os.LookupEnv(v.Name); set && target.Kind() == reflect.Int && strconv.FormatInt(target.Int(), 10) != text {
		return fmt.Errorf("not a decimal number") // envconfig takes 010 for 8 and 0x10 for 16
	}
	return v.check(target.Interface())
}

// expected is what is accepted, as the end of a sentence.
func (v *Variable) expected() string {
	if v.field.Tag.Get("oneof") != "" {
		return "one of " + v.Accepted
	}
	return "a " + v.Accepted
}

// Variable describes one variable.
type Variable struct {
	Name, Default, Description, Accepted string

	field reflect.StructField
}

// Table lists every variable in the order in which Config declares them.
func Table() []Variable {
	kind := reflect.TypeFor[Config]()
	var table []Variable
	for i := range kind.NumField() {
		f := kind.Field(i)
		if f.Tag.Get("ignored") == "true" {
			continue
		}
		v := Variable{
			Name: prefix + "_" + strings.ToUpper(snake(f.Name)), Default: f.Tag.Get("default"), Description: f.Tag.Get("desc"),
			Accepted: cmp.Or(f.Tag.Get("accepts"), f.Tag.Get("oneof")), field: f,
		}
		if v.Accepted == "" {
			v.Accepted = accepted(f.Type, f.Tag.Get("min"), f.Tag.Get("max"))
		}
		table = append(table, v)
	}
	return table
}

func accepted(kind reflect.Type, least, most string) string {
	switch kind {
	case reflect.TypeFor[time.Duration]():
		return fmt.Sprintf("duration with a unit, such as 300s or 5m, from %s to %s", least, most)
	case reflect.TypeFor[Bytes]():
		return fmt.Sprintf("size, such as 65536 or 1MiB, from %s to %s", least, most)
	default:
		return fmt.Sprintf("whole number from %s to %s", least, most)
	}
}

// check says whether a value that parsed is one that is accepted.
func (v *Variable) check(value any) error {
	least, most := v.field.Tag.Get("min"), v.field.Tag.Get("max")
	switch value := value.(type) {
	case int:
		return between(value, least, most, strconv.Atoi)
	case time.Duration:
		return between(value, least, most, time.ParseDuration)
	case Bytes:
		return between(value, least, most, ParseBytes)
	case string:
		return v.checkText(value)
	default:
		return fmt.Errorf("no way to check a %T", value)
	}
}

func between[T int | time.Duration | Bytes](value T, least, most string, parse func(string) (T, error)) error {
	low, err := parse(least)
	if err != nil {
		return err
	}
	high, err := parse(most)
	if err != nil {
		return err
	}
	if value < low || value > high {
		return fmt.Errorf("out of range")
	}
	return nil
}

func (v *Variable) checkText(text string) error {
	if list := v.field.Tag.Get("oneof"); list != "" && !slices.Contains(strings.Split(list, ", "), text) {
		return fmt.Errorf("not one of %s", list)
	}
	switch v.field.Name {
	case "RedisURL":
		// go-redis takes both of these, and connects to localhost.
		if strings.Contains(text, "#") || !strings.Contains(text, "://") {
			return fmt.Errorf("not a URL with a host; a # in a password is written %%23")
		}
		_, err := redis.ParseURL(text)
		return err
	case "Prefix", "Queue":
		if text == "" || len(text) > 100 || strings.ContainsFunc(text, notInName) {
			return fmt.Errorf("not a name")
		}
	case "HTTPAddr":
		if _, port, err := net.SplitHostPort(text); text != "" && (err != nil || port == "") {
			return fmt.Errorf("not an address")
		}
	case "Python", "Node":
		if strings.TrimSpace(text) == "" {
			return fmt.Errorf("not a program")
		}
	case "ControlPublicKey":
		if raw, err := base64.StdEncoding.DecodeString(text); text != "" && (err != nil || len(raw) != ed25519.PublicKeySize) {
			return fmt.Errorf("not a public key")
		}
	}
	return nil
}

// notInName finds what would break a key: braces are the cluster's hash tag, the colon separates.
func notInName(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("{}:*?[]", r) }

// unknown lists what in environ begins like ours and is none of ours, by name alone: its value may be a secret.
func unknown(environ []string) []string {
	known := map[string]bool{}
	for _, v := range Table() {
		known[v.Name] = true
	}
	var list []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		ours := strings.HasPrefix(name, prefix+"_") && !slices.ContainsFunc(foreign, func(p string) bool { return strings.HasPrefix(name, p) })
		if ours && !known[name] {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}
