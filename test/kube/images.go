package kube

import (
	"context"

	"gitlab.com/agentk/agentk/test/tool"
)

// applets are the commands of busybox that Pods of the image local/web:1 have in /bin.
var applets = []string{
	"sh", "cat", "tar", "sleep", "sha256sum", "head", "tail", "stty", "id", "ps", "ls", "date", "env", "dd", "wc", "tee", "echo", "ip",
	"mkdir", "rm", "kill", "true", "false", "yes", "nc", "hostname", "seq",
}

// Images returns the folder of the images every node gets, building what is missing: pause.tar (local/pause:1), web.tar (local/web:1:
// see image/web, with a busybox shell) and coredns.tar (local/coredns:1).
func Images(ctx context.Context) (string, error) {
	c, err := openCache()
	if err != nil {
		return "", err
	}
	busybox, err := tool.Install(ctx, "busybox-static", "busybox")
	if err != nil {
		return "", err
	}
	links := map[string]string{}
	for _, applet := range applets {
		links["/bin/"+applet] = "busybox"
	}
	for _, build := range []struct {
		name, folder string
		image        Image
	}{
		{"pause", "image/pause", Image{Name: "local/pause:1", Entrypoint: []string{"/pause"}}},
		{"web", "image/web", Image{
			Name: "local/web:1", Entrypoint: []string{"/bin/web"}, Files: map[string]string{"/bin/busybox": busybox}, Links: links,
		}},
		{"coredns", "recipe/coredns", Image{
			Name: "local/coredns:1", Entrypoint: []string{"/coredns", "-conf", "/etc/coredns/Corefile"},
		}},
	} {
		if err := c.buildImage(ctx, build.name, build.folder, build.image); err != nil {
			return "", err
		}
	}
	return c.dir, nil
}

// buildImage makes NAME.tar of an image whose entry point is the Go program of a folder.
func (c *cache) buildImage(ctx context.Context, name, folder string, image Image) error {
	binary, err := c.ensure(ctx, name, func(ctx context.Context, out string) error {
		return c.goBuild(ctx, folder, "", out, ".")
	})
	if err != nil {
		return err
	}
	files := map[string]string{image.Entrypoint[0]: binary}
	for inside, outside := range image.Files {
		files[inside] = outside
	}
	image.Files = files
	_, err = c.ensure(ctx, name+".tar", func(_ context.Context, out string) error { return image.Write(out) })
	return err
}
