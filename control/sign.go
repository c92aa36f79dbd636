package control

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Freshness is how old, by Redis's clock, a signed command may be when a worker reads it. It covers a stored intent that
// waits for a worker which was away, and bounds how long a recorded message could be replayed to a worker that has not seen
// its request ID.
const Freshness = 5 * time.Minute

// Errors of keys and signatures, matched with [errors.Is].
var (
	// ErrSignature is returned by Verify for a command that is not signed, wrongly signed, or not fresh.
	ErrSignature = errors.New("control signature refused")
	// ErrKey is returned when a key is not in the form that keygen writes.
	ErrKey = errors.New("control key is not usable")
)

// signed is what a signature covers: everything that a command says, and the queue it is said to, so that a message recorded
// on one queue means nothing on another. Fields have no newlines: they are identifiers, or globs that Sign checks.
func (c Command) signed(channel string) []byte {
	if c.Worker == "" {
		c.Worker = Everyone
	}
	return []byte(strings.Join([]string{
		"bobbin control 1", channel, string(c.Verb), c.Worker, c.ExecutionID, c.RequestID, strconv.FormatInt(c.IssuedMS, 10),
	}, "\n"))
}

// Sign returns the command with a time of issue (Unix ms on Redis's clock) and an Ed25519 signature for one control channel.
func (c Command) Sign(key ed25519.PrivateKey, channel string, nowMS int64) Command {
	c.IssuedMS = nowMS
	c.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, c.signed(channel)))
	return c
}

// Verify checks that the command was signed with the other half of key for this channel, and is fresh. A request ID is
// required, because it is what makes a replay recognisable.
func (c Command) Verify(key ed25519.PublicKey, channel string, nowMS int64) error {
	signature, err := base64.StdEncoding.DecodeString(c.Signature)
	switch {
	case c.Signature == "":
		return fmt.Errorf("%w: the command is not signed", ErrSignature)
	case c.RequestID == "":
		return fmt.Errorf("%w: field \"request_id\" is missing", ErrSignature)
	case strings.ContainsRune(c.Worker, '\n'):
		return fmt.Errorf("%w: field \"worker\" has a newline", ErrSignature)
	case err != nil || !ed25519.Verify(key, c.signed(channel), signature):
		return fmt.Errorf("%w: it does not match the command and the public key", ErrSignature)
	}
	if age := time.Duration(nowMS-c.IssuedMS) * time.Millisecond; age > Freshness || age < -Freshness {
		return fmt.Errorf("%w: issued %s ago, expected at most %s", ErrSignature, age, Freshness)
	}
	return nil
}

// GenerateKey returns a new key pair: the private half as PEM (PKCS #8), the public half as one word for the environment.
func GenerateKey() (privatePEM []byte, public string, err error) {
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, "", fmt.Errorf("generate control key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, "", fmt.Errorf("generate control key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), base64.StdEncoding.EncodeToString(pub), nil
}

// ParsePublicKey reads the public half as keygen prints it.
func ParsePublicKey(text string) (ed25519.PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: expected %d bytes in base64, as bobbin keygen prints them", ErrKey, ed25519.PublicKeySize)
	}
	return raw, nil
}

// ParsePrivateKey reads the private half from the file that keygen writes.
func ParsePrivateKey(file []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(file)
	if block == nil {
		return nil, fmt.Errorf("%w: expected a PEM file as bobbin keygen writes it", ErrKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: expected an Ed25519 private key", ErrKey)
	}
	return key, nil
}
