// Uppy 5 and 4: its AwsS3 asks `getUploadParameters` where each file goes.
import Uppy from "@uppy/core";
import AwsS3 from "@uppy/aws-s3";

export function createUppy({ requestUpload }) {
  const uppy = new Uppy();
  uppy.use(AwsS3, {
    shouldUseMultipart: false,
    getUploadParameters: async (file) => {
      const presigned = await requestUpload(file);
      return { method: presigned.method, url: presigned.upload_url, headers: presigned.headers };
    },
  });
  return uppy;
}
