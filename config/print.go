package config

import (
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"regexp"
	"strings"
)

// LogValue shows every setting, the Redis URL without its password.
func (c Config) LogValue() slog.Value {
	value := reflect.ValueOf(c)
	var attrs []slog.Attr
	for _, v := range Table() {
		attrs = append(attrs, slog.String(v.Name, v.shown(fmt.Sprint(value.FieldByName(v.field.Name).Interface()))))
	}
	return slog.GroupValue(attrs...)
}

// String shows every setting on a line of its own, the Redis URL without its password.
func (c Config) String() string {
	var b strings.Builder
	for _, a := range c.LogValue().Group() {
		fmt.Fprintf(&b, "%s=%s\n", a.Key, a.Value)
	}
	return b.String()
}

// GoString is String, so that %#v does not print the password either.
func (c Config) GoString() string { return c.String() }

// shown is the value as it may be printed.
func (v *Variable) shown(text string) string {
	if v.field.Name == "RedisURL" {
		return RedactURL(text)
	}
	return text
}

var schemes = regexp.MustCompile(`^(?i:rediss?|unix|https?|tcp)://`)

// plain is a host and a port without a scheme, as people forget it, and text that is no URL at all: both are worth showing.
var plain = regexp.MustCompile(`^[A-Za-z0-9.-]*(:\d{1,5})?$`)

// RedactURL returns a URL without its user, its password and its query. What does not parse, or parses with an @ where none
// belongs (a password with a / or a # in it splits the URL in the wrong place), loses everything that a password could be
// in: too little shown is better than a password in a log.
func RedactURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case plain.MatchString(text):
		return text
	case err == nil && scheme(text) != "" && u.Opaque == "" && !strings.Contains(u.Path+u.RawQuery+u.Fragment, "@"):
		return redactParsed(u)
	case strings.Contains(text, "@"):
		host, _ := cutAny(text[strings.LastIndexByte(text, '@'):], "?#")
		return scheme(text) + "***" + host
	default:
		// Without an @ a password can be where the port belongs (the host was forgotten) or in the query.
		host, cut := cutAny(strings.TrimPrefix(text, scheme(text)), ":?#%")
		if cut {
			host += "***"
		}
		return scheme(text) + host
	}
}

func redactParsed(u *url.URL) string {
	user := ""
	if u.User != nil {
		user = "***@"
	}
	shown := url.URL{Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return u.Scheme + "://" + user + strings.TrimPrefix(shown.String(), "//")
}

// scheme returns the beginning of a URL up to and with its slashes, if it is one that people write: another may be a password.
func scheme(text string) string { return schemes.FindString(text) }

// cutAny returns text up to the first of the characters in chars, and whether there was one.
func cutAny(text, chars string) (string, bool) {
	if i := strings.IndexAny(text, chars); i >= 0 {
		return text[:i], true
	}
	return text, false
}
