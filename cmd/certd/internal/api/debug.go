package api

import (
	"context"
	"time"
)

// LogLevelRequest asks how much the daemon logs, or to change that for a while.
// With neither Level nor Reset it only asks.
type LogLevelRequest struct {
	Actor   string `json:"actor"`           // set by the server from the peer's credentials
	Level   string `json:"level,omitempty"` // debug, info, warn or error
	Seconds int64  `json:"seconds,omitempty"`
	Reset   bool   `json:"reset,omitempty"` // back to what the configuration says
}

// LogLevel is the document behind `certd debug log-level`.
type LogLevel struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"` // LogLevel
	Level      string     `json:"level"`
	Configured string     `json:"configured"`      // log.level of the configuration
	Until      *time.Time `json:"until,omitempty"` // absent where the configuration counts
}

// Diagnosis is what the daemon says of itself for a support bundle. Secrets are
// taken out.
type Diagnosis struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"` // Diagnosis
	At         time.Time `json:"at"`
	Version    string    `json:"version"`
	PID        int       `json:"pid"`
	StartedAt  time.Time `json:"startedAt"`
	GoVersion  string    `json:"goVersion"`
	HeapBytes  uint64    `json:"heapBytes"`
	LogLevel   string    `json:"logLevel"`
	Goroutines string    `json:"goroutines"` // their stacks
	Logs       []string  `json:"logs"`       // the last lines, as JSON, the oldest first
}

// LogLevel asks the daemon how much it logs, or to change that.
func (c *Client) LogLevel(ctx context.Context, r LogLevelRequest) (doc LogLevel, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, acceptTimeout, errSlow)
	defer cancel()
	return doc, c.do(ctx, "/v1/log-level", r, &doc)
}

// Diagnosis asks the daemon about itself.
func (c *Client) Diagnosis(ctx context.Context) (doc Diagnosis, err error) {
	return doc, c.ask(ctx, "/v1/diagnosis", nil, &doc)
}
