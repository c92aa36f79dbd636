package process

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// ProtocolVersion is the version of the frame protocol, exchanged in hello and ready.
const ProtocolVersion = 1

// ErrFrame is returned for what an interpreter sends that the frame protocol does not allow. The connection is lost then.
var ErrFrame = errors.New("malformed frame")

// frame is every message there is; docs/frames.md says which fields belong to which type.
type frame struct {
	Type string `json:"type"`

	// to the interpreter
	Protocol       int             `json:"protocol,omitempty"`
	Mode           Mode            `json:"mode,omitempty"`
	Preload        string          `json:"preload,omitempty"`
	ResultMaxBytes int             `json:"result_max_bytes,omitempty"`
	FrameMaxBytes  int             `json:"frame_max_bytes,omitempty"`
	Generation     string          `json:"generation,omitempty"`
	ExecutionID    string          `json:"execution_id,omitempty"`
	Attempt        int             `json:"attempt,omitempty"`
	Workflow       string          `json:"workflow,omitempty"`
	Function       string          `json:"function,omitempty"`
	Params         json.RawMessage `json:"params,omitempty"`
	Meta           json.RawMessage `json:"meta,omitempty"`
	DeadlineMS     int64           `json:"deadline_ms,omitempty"`
	Traceparent    string          `json:"traceparent,omitempty"`
	Paths          []string        `json:"paths,omitzero"`
	Source         *string         `json:"source,omitempty"`

	// both ways
	Path    string   `json:"path,omitempty"`
	Modules []string `json:"modules,omitempty"`

	// from the interpreter
	PID       int             `json:"pid,omitempty"`
	Language  string          `json:"language,omitempty"`
	Version   string          `json:"version,omitempty"`
	Level     string          `json:"level,omitempty"`
	Message   string          `json:"message,omitempty"`
	Logger    string          `json:"logger,omitempty"`
	Done      float64         `json:"done,omitempty"`
	Total     float64         `json:"total,omitempty"`
	Note      string          `json:"note,omitempty"`
	Value     json.RawMessage `json:"value,omitempty"`
	ErrorType string          `json:"error_type,omitempty"`
	Traceback string          `json:"traceback,omitempty"`
	Signal    int             `json:"signal,omitempty"`
	Code      int             `json:"code,omitempty"`
}

// wire is one end of a connection that carries frames: four bytes of length, big-endian, and that many bytes of JSON.
// One goroutine may write while another reads.
type wire struct {
	conn  *net.UnixConn
	in    *bufio.Reader
	limit int
	body  []byte // of the frame read last; the next read overwrites it
	out   []byte
}

func newWire(conn *net.UnixConn, limit int) *wire {
	return &wire{conn: conn, in: bufio.NewReaderSize(conn, 32<<10), limit: limit}
}

// send writes a frame. Descriptors travel with it.
func (w *wire) send(f *frame, files ...*os.File) error {
	body, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("process: %w", err)
	}
	return w.sendBytes(body, files...)
}

func (w *wire) sendBytes(body []byte, files ...*os.File) error {
	if len(body) > w.limit {
		return fmt.Errorf("process: a frame of %d bytes, expected at most %d", len(body), w.limit)
	}
	w.out = append(binary.BigEndian.AppendUint32(w.out[:0], uint32(len(body))), body...)
	if len(files) == 0 {
		_, err := w.conn.Write(w.out)
		return err
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	_, _, err := w.conn.WriteMsgUnix(w.out, syscall.UnixRights(fds...), nil)
	return err
}

// read reads a frame. What the frame points to is valid until the next read.
func (w *wire) read() (*frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(w.in, head[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head[:]))
	if size > w.limit {
		return nil, fmt.Errorf("process: %w: %d bytes, expected at most %d", ErrFrame, size, w.limit)
	}
	if cap(w.body) < size || cap(w.body) > 1<<20 { // a large frame is no reason to keep so much for ever
		w.body = make([]byte, size)
	}
	w.body = w.body[:size]
	if _, err := io.ReadFull(w.in, w.body); err != nil {
		return nil, err
	}
	f := &frame{}
	if err := json.Unmarshal(w.body, f); err != nil {
		return nil, fmt.Errorf("process: %w: %w", ErrFrame, err)
	}
	if f.Type == "" {
		return nil, fmt.Errorf("process: %w: no type", ErrFrame)
	}
	return f, nil
}

// newPair returns the two ends of a connection: ours, and the file to hand to a process.
func newPair() (*net.UnixConn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("process: socketpair: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "wire of the interpreter")
	conn, err := net.FileConn(mine) // a duplicate
	_ = mine.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("process: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}
