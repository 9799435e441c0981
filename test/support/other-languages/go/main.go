// Creates a job, reads it back, and prints the reason with which an unknown one is refused.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	jobv1 "lethe-client/gen/lethe/job/v1"
)

func main() {
	connection, err := grpc.NewClient(os.Getenv("LETHE_JOB_ADDRESS"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	jobs := jobv1.NewJobServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("LETHE_TOKEN"))

	created, err := jobs.CreateJob(ctx, &jobv1.CreateJobRequest{DisplayName: "from Go"})
	if err != nil {
		log.Fatal(err)
	}
	read, err := jobs.GetJob(ctx, &jobv1.GetJobRequest{JobId: created.GetJob().GetId()})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(read.GetJob().GetDisplayName(), read.GetJob().GetState())

	_, err = jobs.GetJob(ctx, &jobv1.GetJobRequest{JobId: "018f6b1e-7c1a-7000-8000-000000000001"})
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			fmt.Println(info.GetReason())
		}
	}
}
