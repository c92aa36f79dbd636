package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

var incidentScript = load("incident")

func init() { scripts["incident"] = incidentScript }

// Incident is an execution that counts against its workflow.
type Incident struct {
	ID, Workflow, What string // what happened: "stuck" or "lost"
	Window             time.Duration
	Threshold          int
}

// Incident counts an execution against its workflow and says whether that put the workflow in quarantine. It is safe to
// repeat.
func (q *Queue) Incident(ctx context.Context, i Incident) (quarantined bool, err error) {
	keys := []string{q.Keys.Incidents(i.Workflow), q.Keys.Quarantine}
	raw, err := q.run(ctx, "incident", incidentScript, keys, i.ID, i.Window.Milliseconds(), i.Threshold, i.Workflow, i.What)
	if err != nil {
		return false, err
	}
	values, ok := raw.([]any)
	if !ok || len(values) != 2 {
		return false, fmt.Errorf("incident: unexpected reply %T", raw)
	}
	return number(values[1]) == 1, nil
}

// Quarantined is a workflow that is refused.
type Quarantined struct {
	Workflow string `json:"workflow"`
	SinceMS  int64  `json:"since_ms"` // Redis's clock; 0 when it is not known
	Why      string `json:"why"`
}

// Quarantine lists the workflows that are refused.
func (q *Queue) Quarantine(ctx context.Context) ([]Quarantined, error) {
	all, err := q.rdb.HGetAll(ctx, q.Keys.Quarantine).Result()
	if err != nil {
		return nil, wrap("quarantine", err)
	}
	list := []Quarantined{}
	for workflow, document := range all {
		one := Quarantined{}
		if json.Unmarshal([]byte(document), &one) != nil {
			one.Why = document // an operator wrote it by hand
		}
		one.Workflow = workflow
		list = append(list, one)
	}
	return list, nil
}

// QuarantineAdd has a workflow refused from now on, and says whether it was not before.
func (q *Queue) QuarantineAdd(ctx context.Context, workflow, why string) (bool, error) {
	now, err := q.rdb.Time(ctx).Result()
	if err != nil {
		return false, wrap("quarantine", err)
	}
	document, err := json.Marshal(Quarantined{Workflow: workflow, SinceMS: now.UnixMilli(), Why: why})
	if err != nil {
		return false, err
	}
	added, err := q.rdb.HSetNX(ctx, q.Keys.Quarantine, workflow, document).Result()
	return added, wrap("quarantine", err)
}

// QuarantineRemove has a workflow run again, forgets what was counted against it, and says whether it was in quarantine.
func (q *Queue) QuarantineRemove(ctx context.Context, workflow string) (bool, error) {
	tx := q.rdb.TxPipeline()
	tx.Del(ctx, q.Keys.Incidents(workflow))
	removed := tx.HDel(ctx, q.Keys.Quarantine, workflow)
	if err := execute(ctx, tx); err != nil && !errors.Is(err, redis.Nil) {
		return false, wrap("quarantine", err)
	}
	return removed.Val() > 0, nil
}
