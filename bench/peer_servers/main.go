// A server of the library centrifuge: POST /push/<channel> publishes. A second argument is a Redis, which keeps a history.
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/centrifugal/centrifuge"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	node, err := centrifuge.New(centrifuge.DefaultConfig)
	check(err)
	var options []centrifuge.PublishOption
	durable := len(os.Args) > 2
	if durable {
		shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: os.Args[2]})
		check(err)
		config := centrifuge.RedisBrokerConfig{Shards: []*centrifuge.RedisShard{shard}, UseStreams: true}
		broker, err := centrifuge.NewRedisBroker(node, config)
		check(err)
		node.SetBroker(broker)
		options = append(options, centrifuge.WithHistory(100000, time.Hour))
	}
	node.OnConnecting(func(_ context.Context, e centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials: &centrifuge.Credentials{UserID: e.Token},
			Subscriptions: map[string]centrifuge.SubscribeOptions{
				"all": {Recover: durable}, "#" + e.Token: {},
			},
		}, nil
	})
	node.OnConnect(func(*centrifuge.Client) {})
	check(node.Run())
	http.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
	http.HandleFunc("/push/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		channel := r.URL.Path[len("/push/"):]
		if channel != "all" {
			channel = "#" + channel
		}
		if err == nil {
			_, err = node.Publish(channel, body, options...)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write([]byte("queued"))
	})
	check(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
