"""Creates a job, reads it back, and prints the reason with which an unknown one is refused."""

import os

import grpc
from google.rpc import error_details_pb2, status_pb2
from lethe.job.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

METADATA = (("authorization", f"Bearer {os.environ['LETHE_TOKEN']}"),)

with grpc.insecure_channel(os.environ["LETHE_JOB_ADDRESS"]) as channel:
    jobs = job_service_pb2_grpc.JobServiceStub(channel)
    created = jobs.CreateJob(
        job_service_pb2.CreateJobRequest(display_name="from Python"), metadata=METADATA, timeout=10
    )
    job = jobs.GetJob(job_service_pb2.GetJobRequest(job_id=created.job.id), metadata=METADATA, timeout=10).job
    print(job.display_name, job_pb2.JobState.Name(job.state))
    try:
        unknown = "018f6b1e-7c1a-7000-8000-000000000001"
        jobs.GetJob(job_service_pb2.GetJobRequest(job_id=unknown), metadata=METADATA, timeout=10)
    except grpc.RpcError as error:
        packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
        for detail in status_pb2.Status.FromString(packed).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                print(info.reason)
