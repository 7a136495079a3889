package railsapi

import (
	"context"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/event"
	"gitlab.com/agentk/agentk/api/notifications"
	"gitlab.com/agentk/agentk/internal/fault"
)

// Events tells all replicas of kas that a project was pushed to.
type Events interface {
	Publish(ctx context.Context, projectPath string) error
}

// notificationsServer is Notifications.
type notificationsServer struct {
	notifications.UnimplementedNotificationsServer

	events Events
}

// GitPushEvent implements the service.
func (n *notificationsServer) GitPushEvent(ctx context.Context, req *notifications.GitPushEventRequest) (*notifications.GitPushEventResponse, error) {
	if err := n.events.Publish(ctx, req.Event.Project.FullPath); err != nil {
		return nil, fault.Wrap(fault.Unavailable, fault.Kas, err, "Failed to publish the push event")
	}
	return &notifications.GitPushEventResponse{}, nil
}

// adoptOldForm understands GitLab 16.0 and 16.1, which sent the project itself where later versions send an event that holds it.
// What was an id there is no event here, so it stays behind among the unknown fields.
func adoptOldForm(req *notifications.GitPushEventRequest) {
	if req.Event == nil || req.Event.Project != nil {
		return
	}
	project := &event.Project{}
	if err := proto.Unmarshal(req.Event.ProtoReflect().GetUnknown(), project); err != nil || project.Id == 0 {
		return // the missing project is then complained about
	}
	req.Event = &event.GitPushEvent{Project: project}
}
